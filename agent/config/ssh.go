package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/ssh"
	"github.com/sallyport/sallyport/internal/access"
)

// The part of a target that is for SSH, as it is written.
type (
	sshTarget struct {
		KnownHosts  string   `yaml:"known_hosts"` // a file, with @cert-authority and @revoked where wanted; in place of host_key
		HostCA      []string `yaml:"host_ca"`     // "TYPE BASE64": who may sign the host's certificate; in place of host_key
		HostName    string   `yaml:"host_name"`   // what the host is called in known_hosts and in its certificate; empty: the address's host
		Revoked     string   `yaml:"revoked_host_keys"`
		Shells      []string `yaml:"shells"`  // line, terminal
		Forward     bool     `yaml:"forward"` // -L, -D, -W
		Listen      bool     `yaml:"listen"`  // -R
		Env         []string `yaml:"env"`
		KeepFiles   bool     `yaml:"keep_files"`
		OmitInput   bool     `yaml:"omit_input"`
		Reap        bool     `yaml:"reap"`
		Algorithms  []string `yaml:"old_algorithms"`
		NoStrictKex bool     `yaml:"without_strict_kex"`
		Certificate *sshCert `yaml:"certificate"` // beside user_ca
	}
	sshCert struct {
		Minutes       int      `yaml:"minutes"`
		Principals    []string `yaml:"principals"`
		ForceCommand  string   `yaml:"force_command"`
		SourceAddress []string `yaml:"source_address"`
	}
)

// DefaultValidity is how long a certificate of the agent's own is good where the configuration does not say: a login takes seconds.
const DefaultValidity = 5 * time.Minute

// SSH are the settings of all targets of SSH.
func (c *Config) SSH() map[access.TargetName]ssh.Settings {
	all := map[access.TargetName]ssh.Settings{}
	for name, t := range c.Targets {
		if t.SSH != nil {
			all[name] = *t.SSH
		}
	}
	return all
}

// check makes the settings, and says how the host proves itself where it does so by other means than one key.
func (t *sshTarget) check(dir, host, port string, signs bool) (*ssh.Settings, *protocol.Peer, error) {
	s := &ssh.Settings{Forward: t.Forward, Listen: t.Listen, Env: t.Env, KeepFiles: t.KeepFiles, OmitInput: t.OmitInput, Reap: t.Reap, Algorithms: t.Algorithms, NoStrictKex: t.NoStrictKex}
	for _, m := range t.Shells {
		s.Shells = append(s.Shells, ssh.Mode(m))
	}
	if t.Revoked != "" {
		s.RevokedFile = below(dir, t.Revoked)
	}
	for _, text := range t.HostCA {
		key, err := publicKey(text)
		if err != nil {
			return nil, nil, fmt.Errorf("host_ca: %w", err)
		}
		s.HostCAs = append(s.HostCAs, key)
	}
	switch {
	case signs:
		s.Certificate = &ssh.Certificate{Validity: DefaultValidity}
		if c := t.Certificate; c != nil {
			if c.Minutes != 0 {
				s.Certificate.Validity = time.Duration(c.Minutes) * time.Minute
			}
			s.Certificate.Principals, s.Certificate.ForceCommand, s.Certificate.SourceAddress = c.Principals, c.ForceCommand, c.SourceAddress
		}
	case t.Certificate != nil:
		return nil, nil, errors.New("certificate: it says what user_ca signs, and there is no user_ca")
	}
	if err := s.Check(); err != nil {
		return nil, nil, err
	}
	if t.KnownHosts == "" && len(t.HostCA) == 0 {
		if t.HostName != "" {
			return nil, nil, errors.New("host_name belongs to known_hosts and host_ca")
		}
		return s, nil, nil
	}
	if t.HostName != "" {
		host = t.HostName
	}
	if host == "" {
		return nil, nil, errors.New("known_hosts and host_ca over a unix socket need host_name")
	}
	if port == "" {
		port = "22"
	}
	peer := &protocol.Peer{Mode: "verify-full", ServerName: net.JoinHostPort(host, port)}
	if t.KnownHosts != "" {
		peer.CAFile = below(dir, t.KnownHosts)
	}
	return s, peer, nil
}

// publicKey reads "TYPE BASE64".
func publicKey(text string) (gossh.PublicKey, error) {
	parts := strings.Fields(text)
	if len(parts) < 2 {
		return nil, fmt.Errorf("%q: want TYPE BASE64", text)
	}
	blob, err := base64.StdEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("%q: want TYPE BASE64", text)
	}
	key, err := gossh.ParsePublicKey(blob)
	if err != nil || key.Type() != parts[0] {
		return nil, fmt.Errorf("%q: not a public key of that type", text)
	}
	if _, ok := key.(*gossh.Certificate); ok {
		return nil, fmt.Errorf("%q is a certificate: want the authority's own key", text)
	}
	return key, nil
}
