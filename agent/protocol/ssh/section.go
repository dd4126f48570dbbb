package ssh

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
)

// The part of a target that is for SSH, as it is written.
type (
	section struct {
		KnownHosts  string              `yaml:"known_hosts"` // a file, with @cert-authority and @revoked where wanted; in place of host_key
		HostCA      []string            `yaml:"host_ca"`     // "TYPE BASE64": who may sign the host's certificate; in place of host_key
		HostName    string              `yaml:"host_name"`   // what the host is called in known_hosts and in its certificate; empty: the address's host
		Revoked     string              `yaml:"revoked_host_keys"`
		Shells      []string            `yaml:"shells"`  // line, terminal
		Forward     bool                `yaml:"forward"` // -L, -D, -W
		Listen      bool                `yaml:"listen"`  // -R
		Env         []string            `yaml:"env"`
		KeepFiles   bool                `yaml:"keep_files"`
		OmitInput   bool                `yaml:"omit_input"`
		Reap        bool                `yaml:"reap"`
		Algorithms  []string            `yaml:"old_algorithms"`
		NoStrictKex bool                `yaml:"without_strict_kex"`
		Certificate *certificateSection `yaml:"certificate"` // beside user_ca
	}
	certificateSection struct {
		Minutes       int      `yaml:"minutes"`
		Principals    []string `yaml:"principals"`
		ForceCommand  string   `yaml:"force_command"`
		SourceAddress []string `yaml:"source_address"`
	}
)

// DefaultValidity is how long a certificate of the agent's own is good where the configuration does not say: a login takes seconds.
const DefaultValidity = 5 * time.Minute

// ReadSettings is this room's protocol.Settings: a *Settings, nil where nothing is written and nothing needs any. The host may prove itself by
// its known_hosts, or by an authority that signs for it.
func ReadSettings(from protocol.Section) (any, *protocol.Peer, error) {
	var t *section
	if err := from.Decode(&t); err != nil {
		return nil, nil, err
	}
	if t == nil {
		if from.Credential != protocol.UserCA {
			return nil, nil, nil
		}
		t = &section{}
	}
	s, err := t.settings(from)
	if err != nil {
		return nil, nil, err
	}
	if t.KnownHosts == "" && len(t.HostCA) == 0 {
		if t.HostName != "" {
			return nil, nil, errors.New("host_name belongs to known_hosts and host_ca")
		}
		return s, nil, nil
	}
	host, port := cmp.Or(t.HostName, from.Host), cmp.Or(from.Port, "22")
	if host == "" {
		return nil, nil, errors.New("known_hosts and host_ca over a unix socket need host_name")
	}
	peer := &protocol.Peer{Mode: "verify-full", ServerName: net.JoinHostPort(host, port)}
	if t.KnownHosts != "" {
		peer.CAFile = from.Path(t.KnownHosts)
	}
	return s, peer, nil
}

func (t *section) settings(from protocol.Section) (*Settings, error) {
	s := &Settings{Forward: t.Forward, Listen: t.Listen, Env: t.Env, KeepFiles: t.KeepFiles, OmitInput: t.OmitInput, Reap: t.Reap, Algorithms: t.Algorithms, NoStrictKex: t.NoStrictKex}
	for _, m := range t.Shells {
		s.Shells = append(s.Shells, Mode(m))
	}
	if t.Revoked != "" {
		s.RevokedFile = from.Path(t.Revoked)
	}
	for _, text := range t.HostCA {
		key, err := publicKey(text)
		if err != nil {
			return nil, fmt.Errorf("host_ca: %w", err)
		}
		s.HostCAs = append(s.HostCAs, key)
	}
	switch {
	case from.Credential == protocol.UserCA:
		s.Certificate = &Certificate{Validity: DefaultValidity}
		if c := t.Certificate; c != nil {
			if c.Minutes != 0 {
				s.Certificate.Validity = time.Duration(c.Minutes) * time.Minute
			}
			s.Certificate.Principals, s.Certificate.ForceCommand, s.Certificate.SourceAddress = c.Principals, c.ForceCommand, c.SourceAddress
		}
	case t.Certificate != nil:
		return nil, errors.New("certificate: it says what user_ca signs, and there is no user_ca")
	}
	return s, s.Check()
}

// publicKey reads "TYPE BASE64".
func publicKey(text string) (ssh.PublicKey, error) {
	parts := strings.Fields(text)
	if len(parts) < 2 {
		return nil, fmt.Errorf("%q: want TYPE BASE64", text)
	}
	blob, err := base64.StdEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("%q: want TYPE BASE64", text)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != parts[0] {
		return nil, fmt.Errorf("%q: not a public key of that type", text)
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, fmt.Errorf("%q is a certificate: want the authority's own key", text)
	}
	return key, nil
}
