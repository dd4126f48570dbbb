package ssh

import (
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
)

// maxName bounds names of others in our records and logs.
const maxName = 64

func short(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
	}
	return printable(s)
}

// refused is the record of something that the room does not carry.
func refused(verb, text, rule, hint string) access.Command {
	return access.Command{Verb: verb, Text: text, Normalised: text, Complete: true, Refused: &access.Refusal{Rule: rule, Hint: hint}}
}

// channelRules are the channels that are refused by name (RFC 4254 sections 6.3.2 and 7.2, OpenSSH PROTOCOL).
var channelRules = map[string]struct{ verb, rule, hint string }{
	"direct-tcpip":                      {"FORWARD", "ssh.forward", "ports are not forwarded: ask for a target of its own for what you want to reach"},
	"direct-streamlocal@openssh.com":    {"FORWARD", "ssh.forward", "sockets are not forwarded"},
	"forwarded-tcpip":                   {"FORWARD", "ssh.forward", "ports are not forwarded"},
	"forwarded-streamlocal@openssh.com": {"FORWARD", "ssh.forward", "sockets are not forwarded"},
	"x11":                               {"X11", "ssh.x11", "X11 is not forwarded"},
	"auth-agent@openssh.com":            {"AGENT", "ssh.agent", "agents are not forwarded"},
	"tun@openssh.com":                   {"TUNNEL", "ssh.tunnel", "tunnels are not carried"},
}

func refusedChannel(kind string, extra []byte) access.Command {
	r, ok := channelRules[kind]
	if !ok {
		return refused("CHANNEL", "channel "+short(kind), "ssh.unknown-channel", "the room carries sessions only")
	}
	cmd := refused(r.verb, "channel "+kind, r.rule, r.hint)
	if to := destination(kind, extra); to != "" {
		cmd.Text += " to " + to
		cmd.Normalised = cmd.Text
		cmd.Touches = []access.Touch{{Effect: access.Forward, Resource: access.Resource{Kind: access.KindAddress, Name: to}}}
	}
	return cmd
}

// destination is where a forwarded channel would lead.
func destination(kind string, extra []byte) string {
	var tcp struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}
	var local struct {
		Path     string
		Reserved string
		More     uint32
	}
	switch kind {
	case "direct-tcpip":
		if ssh.Unmarshal(extra, &tcp) == nil {
			return short(net.JoinHostPort(tcp.Host, strconv.FormatUint(uint64(tcp.Port), 10)))
		}
	case "direct-streamlocal@openssh.com":
		if ssh.Unmarshal(extra, &local) == nil {
			return short(local.Path)
		}
	}
	return ""
}

func refusedGlobal(kind string, payload []byte) access.Command {
	switch kind {
	case "tcpip-forward", "cancel-tcpip-forward":
		cmd := refused("FORWARD", kind, "ssh.forward", "ports are not forwarded")
		var at struct {
			Host string
			Port uint32
		}
		if ssh.Unmarshal(payload, &at) == nil {
			to := short(net.JoinHostPort(at.Host, strconv.FormatUint(uint64(at.Port), 10)))
			cmd.Text += " of " + to
			cmd.Normalised = cmd.Text
			cmd.Touches = []access.Touch{{Effect: access.Forward, Resource: access.Resource{Kind: access.KindAddress, Name: to}}}
		}
		return cmd
	case "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com":
		return refused("FORWARD", kind, "ssh.forward", "sockets are not forwarded")
	}
	return refused("REQUEST", "request "+short(kind), "ssh.unknown-request", "the room answers no requests about the connection but keepalives")
}

// requestRules are what a session channel may be asked for and does not get (RFC 4254 section 6).
var requestRules = map[string]struct{ verb, rule, hint string }{
	"pty-req":                    {"PTY", "ssh.pty", "this target gives no terminal for that: send one command at a time, without -t"},
	"x11-req":                    {"X11", "ssh.x11", "X11 is not forwarded"},
	"auth-agent-req@openssh.com": {"AGENT", "ssh.agent", "agents are not forwarded: connect without -A"},
	"shell":                      {"SHELL", "ssh.shell", "this target gives no shell of that kind: send each command by itself, ssh TARGET COMMAND"},
}

func refusedRequest(kind string) access.Command {
	r, ok := requestRules[kind]
	if !ok {
		return refused("REQUEST", "channel request "+short(kind), "ssh.unknown-request", "the room carries commands and sftp")
	}
	return refused(r.verb, kind, r.rule, r.hint)
}
