package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Settings are what the agent's configuration may say of one target beyond its address and its proof. The zero Settings is good.
type Settings struct {
	// Hosts are further addresses (HOST:PORT) of the same cluster, tried in order after the target's own.
	Hosts []Host
	// Attributes is libpq's target_session_attrs: any, read-write, read-only, primary, standby, prefer-standby. Empty: any.
	Attributes string
	// Auth are the ways in which the target may ask for the credential, as libpq's require_auth names them. Empty: scram-sha-256 and none
	// (a certificate, or a socket's peer), and over TLS also password, which is how tokens travel. md5 has to be named.
	Auth []string
	// ChannelBinding is libpq's: prefer, require, disable. Empty: prefer.
	ChannelBinding string
	// DirectTLS begins TLS at once, as PostgreSQL 17 understands it, without a request.
	DirectTLS bool
	// Protocol is the newest version to ask the target for: 3.0 or 3.2. Empty: 3.0, which every pooler and proxy takes.
	Protocol string
	// CertFile and KeyFile (PEM) are what the agent shows in TLS, read at each login; empty for nothing.
	CertFile, KeyFile string
	// Login bounds reaching a target and logging in to it, catalogue included. Zero: loginWait.
	Login time.Duration
	// Idle bounds the wait for a client's next command outside a transaction, and IdleInTransaction inside one. Zero: for ever.
	Idle, IdleInTransaction time.Duration
	// Statement is the statement_timeout that a session begins with, unless its client asks for a shorter one. Zero: the target's own.
	Statement time.Duration
	// FunctionCalls lets calls by number (how libpq reads and writes large objects) through to the gate, where no column of the target is
	// masked. False: the room refuses them.
	FunctionCalls bool
}

// Host is one more address of a target.
type Host struct{ Address, ServerName string }

// attributes are the checks of target_session_attrs.
var attributes = map[string]pgconn.ValidateConnectFunc{
	"": nil, "any": nil,
	"read-write":     pgconn.ValidateConnectTargetSessionAttrsReadWrite,
	"read-only":      pgconn.ValidateConnectTargetSessionAttrsReadOnly,
	"primary":        pgconn.ValidateConnectTargetSessionAttrsPrimary,
	"standby":        pgconn.ValidateConnectTargetSessionAttrsStandby,
	"prefer-standby": pgconn.ValidateConnectTargetSessionAttrsPreferStandby,
}

// validate is nil where any host will do.
func (s *Settings) validate() pgconn.ValidateConnectFunc {
	check := attributes[s.Attributes]
	if check == nil {
		return nil
	}
	return func(ctx context.Context, c *pgconn.PgConn) error {
		err := check(ctx, c)
		if preferred := (*pgconn.NotPreferredError)(nil); err == nil || errors.As(err, &preferred) {
			return err // as it is: pgconn comes back to such a host
		}
		return fmt.Errorf("%w: %w", errAttributes, err)
	}
}

// Check says what is wrong with settings; a configuration is refused with it.
func (s *Settings) Check(secured bool) error {
	if _, ok := attributes[s.Attributes]; !ok {
		return fmt.Errorf("target_session_attrs %q: want any, read-write, read-only, primary, standby or prefer-standby", s.Attributes)
	}
	for _, a := range s.Auth {
		if !slices.Contains([]string{"scram-sha-256", "md5", "password", "none"}, a) {
			return fmt.Errorf("auth %q: want scram-sha-256, md5, password or none", a)
		}
		if a == "password" && !secured {
			return fmt.Errorf("auth password sends the credential as it is: it needs TLS")
		}
	}
	if !slices.Contains([]string{"", "prefer", "require", "disable"}, s.ChannelBinding) {
		return fmt.Errorf("channel_binding %q: want prefer, require or disable", s.ChannelBinding)
	}
	if !secured && (s.ChannelBinding == "require" || s.DirectTLS || s.CertFile != "") {
		return fmt.Errorf("channel_binding, direct_tls and client_certificate need TLS")
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		return fmt.Errorf("client_certificate: cert_file and key_file go together")
	}
	if !slices.Contains([]string{"", "3.0", "3.2"}, s.Protocol) {
		return fmt.Errorf("protocol %q: want 3.0 or 3.2", s.Protocol)
	}
	for _, d := range []time.Duration{s.Login, s.Idle, s.IdleInTransaction, s.Statement} {
		if d < 0 || d > 24*time.Hour {
			return fmt.Errorf("a timeout of %s: at most 24h", d)
		}
	}
	return nil
}

func (s *Settings) auth(secured bool) []string {
	switch {
	case len(s.Auth) > 0:
		return s.Auth
	case secured:
		return []string{"scram-sha-256", "password", "none"}
	}
	return []string{"scram-sha-256", "none"}
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
