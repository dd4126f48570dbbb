package ssh

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

const (
	// version is what both legs call the room.
	version = "SSH-2.0-Sallyport"
	// maxTries is for passwords: clients take the one-off password from where they are told, nobody types it.
	maxTries = 3
	// maxIterations bounds what a client's endpoint can make us compute.
	maxIterations = 1 << 20
)

// greet lets the client in. It logs in to the host on the way, because a client can be told why it gets no connection only before it
// is let in.
func (l *link) greet(ctx context.Context, client net.Conn) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	signer, err := l.room.signer(l.s.Target)
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := &ssh.ServerConfig{Config: crypto(), MaxAuthTries: maxTries, ServerVersion: version}
	cfg.AddHostKey(signer)
	admit := func() (*ssh.Permissions, error) {
		if l.host == nil && l.failed == nil {
			l.connect(ctx)
		}
		if l.failed != nil {
			return nil, &ssh.BannerError{Err: l.failed, Message: words(unreachable(l.failed))}
		}
		return &ssh.Permissions{}, nil
	}
	if v := l.s.Verifier; v == nil {
		cfg.NoClientAuth = true
		cfg.NoClientAuthCallback = func(ssh.ConnMetadata) (*ssh.Permissions, error) { return admit() }
	} else {
		cfg.PasswordCallback = func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if !matches(v, password) {
				return nil, errors.New("wrong password")
			}
			return admit()
		}
	}
	conn, channels, requests, err := ssh.NewServerConn(client, cfg)
	if err != nil {
		if l.failed != nil {
			err = l.failed
		}
		return nil, nil, nil, err
	}
	return conn, channels, requests, nil
}

// connect logs in once, whatever the client tries.
func (l *link) connect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	defer cancel()
	if l.host, l.failed = l.room.login(ctx, l.s); l.failed != nil {
		l.s.Log.Error("login to target failed", "session", l.s.ID, "target", l.s.Target, "error", l.failed)
	}
}

// matches holds a password to the endpoint's SCRAM-SHA-256 verifier (RFC 5802 section 3).
func matches(v *api.Verifier, password []byte) bool {
	if v.Iterations < 1 || v.Iterations > maxIterations || len(v.StoredKey) != sha256.Size || len(v.Salt) == 0 {
		return false
	}
	salted, err := pbkdf2.Key(sha256.New, string(password), v.Salt, v.Iterations, sha256.Size)
	if err != nil {
		return false
	}
	h := hmac.New(sha256.New, salted)
	h.Write([]byte("Client Key"))
	stored := sha256.Sum256(h.Sum(nil))
	return subtle.ConstantTimeCompare(stored[:], v.StoredKey) == 1
}

// Refuse tells a client for which no session was opened why: its version is read, and SSH_MSG_DISCONNECT is all that it hears (RFC 4253
// section 11.1), which needs no keys.
func (r *Room) Refuse(ctx context.Context, client net.Conn, d *access.Denied) error {
	defer client.Close() //nolint:errcheck // whatever was to be said has been
	late, ok := ctx.Deadline()
	if !ok {
		late = time.Now().Add(handshakeWait)
	}
	_ = client.SetDeadline(late)
	stop := context.AfterFunc(ctx, func() { _ = client.SetDeadline(time.Now()) })
	defer stop()
	written := make(chan error, 1)
	go func() {
		_, err := client.Write(append([]byte(version+"\r\n"), disconnect(words(d))...))
		written <- err
	}()
	readErr := readVersion(client)
	if err := <-written; err != nil {
		return err
	}
	if readErr != nil {
		return readErr
	}
	drain(client)
	return nil
}

// readVersion reads the client's identification line.
func readVersion(client net.Conn) error {
	b := make([]byte, 1)
	for range 255 {
		if _, err := client.Read(b); err != nil {
			return err
		}
		if b[0] == '\n' {
			return nil
		}
	}
	return errors.New("a version line of more than 255 bytes")
}

// drain takes what the client says until it has understood, so that our last word is not lost to a reset.
func drain(client net.Conn) {
	_ = client.SetReadDeadline(time.Now().Add(farewellWait))
	b := make([]byte, 4096)
	for left := maxIntro; left > 0; {
		n, err := client.Read(b)
		if err != nil {
			return
		}
		left -= n
	}
}

// disconnect is an unencrypted SSH_MSG_DISCONNECT, SSH_DISCONNECT_BY_APPLICATION.
func disconnect(text string) []byte {
	if len(text) > maxFarewell {
		text = text[:maxFarewell]
	}
	p := []byte{1}
	p = binary.BigEndian.AppendUint32(p, 11)
	p = appendString(p, text)
	p = appendString(p, "")
	padding := 8 - (5+len(p))%8
	if padding < 4 {
		padding += 8
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(p)+padding))
	b = append(append(b, byte(padding)), p...)
	return append(b, make([]byte, padding)...)
}

// maxFarewell is what OpenSSH shows of a disconnect's text, and more.
const maxFarewell = 1000

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
