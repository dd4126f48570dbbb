package ssh

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Mode is what a target gives to somebody who asks for a shell.
type Mode string

// The modes. Each is also what a policy must permit: connect on the program of that name.
const (
	// ModeLine reads one line after the other, has each decided by itself and runs it in a shell of its own.
	ModeLine Mode = "line"
	// ModeTerminal is the host's own shell on a terminal, decided as a whole and recorded to the last byte.
	ModeTerminal Mode = "terminal"
)

// Settings are what a target allows beyond one command at a time. The zero Settings allow nothing: no shell, no terminal, no forwarding, no
// environment but the locale, no old algorithm. What they allow, policy has to permit as well.
type Settings struct {
	// Shells are the modes for who asks for a shell, in the order in which they are tried; empty: shells are refused.
	Shells []Mode
	// Forward allows -L, -D and -W: each destination is decided. Listen allows -R: each bind, and each connection that comes in, is decided.
	Forward, Listen bool
	// Env are names of variables that clients may set, beside the locale; NAME* is every name that starts so.
	Env []string
	// KeepFiles keeps the content of every file that sftp carries as a recording, also where no decision asks for it.
	KeepFiles bool
	// OmitInput leaves what is typed out of the recordings of terminals: passwords are typed, too.
	OmitInput bool
	// Reap has the agent end, by a command of its own on a Linux host, what a session that was ended left running there: for hosts that refuse
	// signals, as OpenSSH does for root. The host must accept LC_* from clients, as it does by default on most systems.
	Reap bool
	// Algorithms are old ones that the host needs, by name; NoStrictKex does without strict key exchange, and without the ciphers that need it.
	Algorithms  []string
	NoStrictKex bool
	// HostCAs are keys that may sign the host's certificate for the name in Login.Peer.ServerName, beside those of its known_hosts file.
	HostCAs []ssh.PublicKey
	// RevokedFile lists public keys of hosts and authorities that are trusted no more, one a line as in authorized_keys; empty: none.
	RevokedFile string
	// Certificate makes the credential a CA's key: each session logs in with a key and a certificate of its own.
	Certificate *Certificate
}

// Certificate says what the certificates are that the agent signs for itself (OpenSSH PROTOCOL.certkeys).
type Certificate struct {
	Validity      time.Duration // 1 minute to maxValidity
	Principals    []string      // empty: the user that is logged in as
	ForceCommand  string        // empty: none
	SourceAddress []string      // of the agent, as the host sees it, in CIDR notation; empty: any
}

const (
	maxValidity = time.Hour
	minValidity = time.Minute
	// skew is how much earlier than the agent's a host's clock may be.
	skew = time.Minute
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}\*?$`)

// dangerous variables change what a decided command does: the loader, the shell, and where programs are found.
var dangerous = regexp.MustCompile(`^(LD_.*|DYLD_.*|BASH_.*|ENV|IFS|PATH|SHELLOPTS|BASHOPTS|PS[0-4]|PROMPT_COMMAND|CDPATH|GLOBIGNORE|HOME|SHELL|USER|LOGNAME|EDITOR|VISUAL|PAGER|GIT_.*|PERL.*|PYTHON.*|RUBY.*|NODE_.*|JAVA_.*|GCONV_PATH|LOCPATH|NLSPATH|TMPDIR|TERMINFO.*|TERMCAP|HISTFILE|LESS.*|MAN.*)$`)

// Check says whether settings make sense.
func (s *Settings) Check() error {
	for i, m := range s.Shells {
		if m != ModeLine && m != ModeTerminal || slices.Contains(s.Shells[:i], m) {
			return fmt.Errorf("shells: %q is not line or terminal, or is there twice", m)
		}
	}
	for _, e := range s.Env {
		if !envName.MatchString(e) {
			return fmt.Errorf("env: %q is no name of a variable", e)
		}
		if stem := strings.TrimSuffix(e, "*"); dangerous.MatchString(stem) || stem != e && len(stem) < 3 {
			return fmt.Errorf("env: %q may change what a command does after it was decided", e)
		}
	}
	known, old := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	for _, a := range s.Algorithms {
		if !slices.ContainsFunc([][]string{known.Ciphers, known.MACs, known.KeyExchanges, known.HostKeys, old.Ciphers, old.MACs, old.KeyExchanges, old.HostKeys},
			func(all []string) bool { return slices.Contains(all, a) }) {
			return fmt.Errorf("algorithms: %q is not one that the agent has", a)
		}
	}
	if s.Certificate != nil {
		return s.Certificate.check()
	}
	return nil
}

func (c *Certificate) check() error {
	if c.Validity < minValidity || c.Validity > maxValidity {
		return fmt.Errorf("certificate: a validity of %s: want %s to %s", c.Validity, minValidity, maxValidity)
	}
	if slices.Contains(c.Principals, "") || strings.ContainsAny(c.ForceCommand, "\x00\n") {
		return errors.New("certificate: an empty principal, or a command of several lines")
	}
	for _, a := range c.SourceAddress {
		if _, err := netip.ParsePrefix(a); err != nil {
			return fmt.Errorf("certificate: source address %q: want ADDRESS/BITS", a)
		}
	}
	return nil
}

// gives says whether a mode is among the shells.
func (s *Settings) gives(m Mode) bool { return slices.Contains(s.Shells, m) }

// takes says whether a client may set a variable. A value with control characters could steer whatever shows it.
func (s *Settings) takes(name, value string) bool {
	if len(name) > maxName || len(value) > maxEnvValue || printable(value) != value || dangerous.MatchString(name) {
		return false
	}
	return slices.ContainsFunc(s.Env, func(e string) bool {
		stem, wide := strings.CutSuffix(e, "*")
		return e == name || wide && strings.HasPrefix(name, stem)
	})
}

// maxEnvValue bounds what a variable holds.
const maxEnvValue = 1024
