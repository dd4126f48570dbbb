package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// host is the connection to the target.
type host struct {
	conn     ssh.Conn
	raw      net.Conn
	channels <-chan ssh.NewChannel
	requests <-chan *ssh.Request
}

// login reaches the host and logs in with the agent's credential. Nothing of what the host says is told to the client.
func (r *Room) login(ctx context.Context, s *protocol.Session) (*host, error) {
	settings := r.settings(s.Target)
	id, err := identify(s.Login.Peer, settings)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	auth, err := authOf(s, settings, time.Now())
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	last := errHostKey
	for _, family := range r.order(s.Target, settings.hostKeys(id.certificates)) {
		h, err := dial(ctx, s, settings, id, auth, family)
		if err == nil {
			r.remember(s.Target, family)
			return h, nil
		}
		switch {
		case errors.Is(err, errFamily):
		case errors.Is(err, errHostKey), errors.Is(err, errCert):
			last = err
		default:
			return nil, fmt.Errorf("login: %w", err)
		}
	}
	return nil, fmt.Errorf("login: %w", last)
}

// order is the families of host keys, the one that worked before first.
func (r *Room) order(target access.TargetName, families [][]string) [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.family[target]
	if !ok {
		return families
	}
	all := [][]string{known}
	for _, f := range families {
		if f[0] != known[0] {
			all = append(all, f)
		}
	}
	return all
}

func (r *Room) remember(target access.TargetName, family []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.family[target] = family
}

func dial(ctx context.Context, s *protocol.Session, settings *Settings, id *identity, auth []ssh.AuthMethod, family []string) (*host, error) {
	raw, err := s.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if late, ok := ctx.Deadline(); ok {
		_ = raw.SetDeadline(late)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Now()) })
	defer stop()
	seen := &intro{Conn: raw}
	var wrong error  // with the host's key
	var shown []byte // the key that the host may not change any more
	cfg := &ssh.ClientConfig{Config: settings.hostCrypto(), User: s.Login.User, Auth: auth, HostKeyAlgorithms: family,
		ClientVersion: version, BannerCallback: ssh.BannerCallback(func(string) error { return nil }),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if shown != nil { // the keys are renewed: a certificate may have expired meanwhile
				if !bytes.Equal(shown, key.Marshal()) {
					return errHostKey
				}
				return nil
			}
			if wrong = id.check(key); wrong == nil && !settings.NoStrictKex && !seen.strict() {
				wrong = errStrict
			}
			if wrong == nil {
				shown = key.Marshal()
			}
			return wrong
		}}
	conn, channels, requests, err := ssh.NewClientConn(seen, "target", cfg)
	if err == nil && !stop() {
		err = context.Cause(ctx)
		_ = conn.Close()
	}
	if err != nil {
		_ = raw.Close()
		switch {
		case wrong != nil:
			return nil, wrong
		case errors.As(err, new(*ssh.AlgorithmNegotiationError)) && strings.Contains(err.Error(), "for host key"):
			return nil, errFamily
		}
		return nil, err
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &host{conn: conn, raw: raw, channels: channels, requests: requests}, nil
}

// unreachable is what a client is told of a login that failed.
func unreachable(err error) *access.Denied {
	d := &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.login", Retryable: true,
		Hint: "the agent could not log in to the host: whoever runs the agent finds the reason in its log"}
	switch {
	case errors.Is(err, errHostKey):
		d.Rule, d.Retryable, d.Hint = "ssh.host-key", false, "the host showed another key than the agent's configuration pins: nothing was sent to it; tell whoever runs the agent"
	case errors.Is(err, errRevoked):
		d.Rule, d.Retryable, d.Hint = "ssh.host-key-revoked", false, "the host showed a key that is revoked: nothing was sent to it; tell whoever runs the agent"
	case errors.Is(err, errCert):
		d.Rule, d.Retryable, d.Hint = "ssh.host-certificate", false, "the host's certificate is not good for its name and the present time, or not signed by an authority that the agent knows: nothing was sent to it; tell whoever runs the agent"
	case errors.Is(err, errStrict):
		d.Rule, d.Retryable, d.Hint = "ssh.strict-kex", false, "the host's SSH server is too old for strict key exchange: upgrade it"
	}
	return d
}
