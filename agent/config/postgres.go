package config

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/internal/access"
)

// postgresTarget is the part of a target that is for PostgreSQL, as it is written.
type postgresTarget struct {
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

// Postgres are the settings of all targets of PostgreSQL.
func (c *Config) Postgres() map[access.TargetName]postgres.Settings {
	all := map[access.TargetName]postgres.Settings{}
	for name, t := range c.Targets {
		if t.Postgres != nil {
			all[name] = *t.Postgres
		}
	}
	return all
}

// check makes the settings of a target that proves itself as c.Peer says. host is that of its address.
func (t *postgresTarget) check(c *Target, dir, host string) error {
	if c.Protocol != "postgres" {
		return errors.New("it is for targets of protocol postgres")
	}
	s := &postgres.Settings{Attributes: t.Attributes, Auth: t.Auth, ChannelBinding: t.Binding, DirectTLS: t.DirectTLS, Protocol: t.Protocol,
		FunctionCalls: t.FunctionCalls, Login: t.Timeouts.Login, Idle: t.Timeouts.Idle, IdleInTransaction: t.Timeouts.IdleInTransaction, Statement: t.Timeouts.Statement}
	if t.Certificate.CertFile != "" {
		s.CertFile = below(dir, t.Certificate.CertFile)
	}
	if t.Certificate.KeyFile != "" {
		s.KeyFile = below(dir, t.Certificate.KeyFile)
	}
	for _, address := range t.Hosts {
		h, port, err := net.SplitHostPort(address)
		if err != nil || h == "" || port == "" {
			return fmt.Errorf("hosts: %q: want HOST:PORT", address)
		}
		if ip := net.ParseIP(h); c.Peer.Mode == "disable" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("hosts: %q: mode disable is for loopback addresses", address)
		}
		name := c.Peer.ServerName
		if name == host { // nobody named another: each host goes by its own
			name = h
		}
		s.Hosts = append(s.Hosts, postgres.Host{Address: address, ServerName: name})
	}
	if len(s.Hosts) > 15 {
		return errors.New("hosts: at most 15")
	}
	if err := s.Check(c.Peer.Mode != "disable"); err != nil {
		return err
	}
	c.Postgres = s
	return nil
}
