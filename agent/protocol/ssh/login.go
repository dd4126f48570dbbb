package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
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

var (
	errHostKey = errors.New("the host shows another key than the pinned one")
	errFamily  = errors.New("the host has no key of this kind")
	errStrict  = errors.New("the host does not do strict key exchange")
)

// login reaches the host and logs in with the agent's credential. Nothing of what the host says is told to the client.
func (r *Room) login(ctx context.Context, s *protocol.Session) (*host, error) {
	if len(s.Login.Peer.Pin) != sha256.Size {
		return nil, errors.New("login: the target has no host_key")
	}
	auth, err := authOf(s.Login.Password.Reveal())
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	for _, family := range r.order(s.Target) {
		h, err := dial(ctx, s, auth, family)
		if err == nil {
			r.remember(s.Target, family)
			return h, nil
		}
		if !errors.Is(err, errHostKey) && !errors.Is(err, errFamily) {
			return nil, fmt.Errorf("login: %w", err)
		}
	}
	return nil, fmt.Errorf("login: %w", errHostKey)
}

// order is the families of host keys, the one that worked before first.
func (r *Room) order(target access.TargetName) [][]string {
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

func dial(ctx context.Context, s *protocol.Session, auth ssh.AuthMethod, family []string) (*host, error) {
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
	swapped, loose := false, false
	cfg := &ssh.ClientConfig{Config: crypto(), User: s.Login.User, Auth: []ssh.AuthMethod{auth}, HostKeyAlgorithms: family,
		ClientVersion: "SSH-2.0-Sallyport", BannerCallback: ssh.BannerCallback(func(string) error { return nil }),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			got := sha256.Sum256(key.Marshal())
			if subtle.ConstantTimeCompare(got[:], s.Login.Peer.Pin) != 1 {
				swapped = true
				return errHostKey
			}
			if !seen.strict() {
				loose = true
				return errStrict
			}
			return nil
		}}
	conn, channels, requests, err := ssh.NewClientConn(seen, "target", cfg)
	if err == nil && !stop() {
		err = context.Cause(ctx)
		_ = conn.Close()
	}
	if err != nil {
		_ = raw.Close()
		switch {
		case swapped:
			return nil, errHostKey
		case loose:
			return nil, errStrict
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

// authOf takes a private key for what it is, and everything else for a password.
func authOf(secret string) (ssh.AuthMethod, error) {
	if secret == "" {
		return nil, errors.New("the credential is empty")
	}
	if !strings.HasPrefix(strings.TrimSpace(secret), "-----BEGIN ") {
		return ssh.Password(secret), nil
	}
	signer, err := ssh.ParsePrivateKey(append(bytes.TrimSpace([]byte(secret)), '\n'))
	if err != nil {
		return nil, errors.New("the private key cannot be read: want one without a passphrase, in OpenSSH's format or PEM")
	}
	return ssh.PublicKeys(signer), nil
}

// unreachable is what a client is told of a login that failed.
func unreachable(err error) *access.Denied {
	d := &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.login", Retryable: true,
		Hint: "the agent could not log in to the host: whoever runs the agent finds the reason in its log"}
	switch {
	case errors.Is(err, errHostKey):
		d.Rule, d.Retryable, d.Hint = "ssh.host-key", false, "the host showed another key than the agent's configuration pins: nothing was sent to it; tell whoever runs the agent"
	case errors.Is(err, errStrict):
		d.Rule, d.Retryable, d.Hint = "ssh.strict-kex", false, "the host's SSH server is too old for strict key exchange: upgrade it"
	}
	return d
}
