package postgres

import (
	"fmt"
	"net"
	"time"

	"github.com/sallyport/sallyport/agent/protocol"
)

// section is the part of a target that is for PostgreSQL, as it is written.
type section struct {
	Hosts       []string `yaml:"hosts"` // HOST:PORT, further ones of the same cluster
	Attributes  string   `yaml:"target_session_attrs"`
	Auth        []string `yaml:"auth"` // scram-sha-256, none, password, md5
	Binding     string   `yaml:"channel_binding"`
	DirectTLS   bool     `yaml:"direct_tls"`
	Protocol    string   `yaml:"protocol"` // 3.0, 3.2
	Certificate struct {
		CertFile string `yaml:"cert_file"`
		KeyFile  string `yaml:"key_file"`
	} `yaml:"client_certificate"`
	FunctionCalls bool `yaml:"function_calls"`
	Timeouts      struct {
		Login             time.Duration `yaml:"login"`
		Idle              time.Duration `yaml:"idle"`
		IdleInTransaction time.Duration `yaml:"idle_in_transaction"`
		Statement         time.Duration `yaml:"statement"`
	} `yaml:"timeouts"`
}

// ReadSettings is this room's protocol.Settings: a *Settings, nil where nothing is written.
func ReadSettings(from protocol.Section) (any, *protocol.Peer, error) {
	var t *section
	if err := from.Decode(&t); err != nil {
		return nil, nil, err
	}
	if from.Credential != protocol.Password {
		return nil, nil, fmt.Errorf("%s: PostgreSQL takes a password, or a certificate (client_certificate) beside it", from.Credential)
	}
	if t == nil {
		return nil, nil, nil
	}
	s := &Settings{Attributes: t.Attributes, Auth: t.Auth, ChannelBinding: t.Binding, DirectTLS: t.DirectTLS, Protocol: t.Protocol,
		FunctionCalls: t.FunctionCalls, Login: t.Timeouts.Login, Idle: t.Timeouts.Idle, IdleInTransaction: t.Timeouts.IdleInTransaction, Statement: t.Timeouts.Statement}
	if t.Certificate.CertFile != "" {
		s.CertFile = from.Path(t.Certificate.CertFile)
	}
	if t.Certificate.KeyFile != "" {
		s.KeyFile = from.Path(t.Certificate.KeyFile)
	}
	if len(t.Hosts) > maxHosts {
		return nil, nil, fmt.Errorf("hosts: at most %d", maxHosts)
	}
	for _, address := range t.Hosts {
		h, err := hostOf(from, address)
		if err != nil {
			return nil, nil, err
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s, nil, s.Check(from.Peer.Mode != "disable")
}

// maxHosts is how many further hosts a target may have.
const maxHosts = 15

// hostOf is one more host of a target that proves itself as the first does.
func hostOf(from protocol.Section, address string) (Host, error) {
	h, port, err := net.SplitHostPort(address)
	if err != nil || h == "" || port == "" {
		return Host{}, fmt.Errorf("hosts: %q: want HOST:PORT", address)
	}
	if ip := net.ParseIP(h); from.Peer.Mode == "disable" && (ip == nil || !ip.IsLoopback()) {
		return Host{}, fmt.Errorf("hosts: %q: mode disable is for loopback addresses", address)
	}
	name := from.Peer.ServerName
	if name == from.Host { // nobody named another: each host goes by its own
		name = h
	}
	return Host{Address: address, ServerName: name}, nil
}
