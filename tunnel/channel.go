package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

// ErrCut is how a channel ends when its peer did not end it: the relay, a network or a crash did. What came before it is genuine, and
// may be incomplete.
var ErrCut = errors.New("the connection was cut: its peer did not close it")

// Channel is one end of the TLS inside a stream. Its Read ends with io.EOF only if the peer said that it would write no more.
type Channel struct {
	conn   *tls.Conn
	joint  *joiner     // of its carrier
	broken atomic.Bool // reading met something that its peer did not send
}

// Carry makes conn fit to carry a TLS whose end matters. Go's TLS takes the end of its carrier between two records for an orderly one,
// as many web sites need; here only the peer's own, authenticated word is.
func Carry(conn net.Conn) net.Conn { return &carrier{conn, joiner{to: conn}} }

type carrier struct {
	net.Conn
	joiner joiner
}

func (c *carrier) Write(b []byte) (int, error) { return c.joiner.Write(b) }

func (c *carrier) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = ErrCut
	}
	return n, err
}

// NewChannel wraps a TLS connection whose carrier is from Carry and whose handshake is done.
func NewChannel(conn *tls.Conn) *Channel {
	c := &Channel{conn: conn}
	if from, ok := conn.NetConn().(*carrier); ok {
		c.joint = &from.joiner
	}
	return c
}

// Read is a net.Conn's.
func (c *Channel) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.broken.Store(true)
	}
	return n, err
}

// Write is a net.Conn's; a long b is sent in pieces of MaxChunk.
func (c *Channel) Write(b []byte) (int, error) { return writeChunks(chunk{c}, b, MaxChunk) }

// chunk writes what leaves as one.
type chunk struct{ *Channel }

func (c chunk) Write(b []byte) (int, error) {
	if c.joint == nil {
		return c.conn.Write(b)
	}
	return c.joint.write(c.conn, b)
}

// CloseWrite says that nothing more will be written; reading goes on.
func (c *Channel) CloseWrite() error { return c.conn.CloseWrite() }

// Close ends both directions, waiting for a peer that does not read no longer than crypto/tls does (5 s). A channel that broke does not end in
// order: its peer shall not take an answer that was cut short for a whole one.
func (c *Channel) Close() error {
	if c.broken.Load() {
		return c.conn.NetConn().Close()
	}
	return c.conn.Close()
}

// LocalAddr is the carrier's.
func (c *Channel) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr is the carrier's: the relay, not the peer.
func (c *Channel) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline is a net.Conn's. A write that hits its deadline ends the channel for writing.
func (c *Channel) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// SetReadDeadline is a net.Conn's.
func (c *Channel) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline is a net.Conn's.
func (c *Channel) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// Exporter is what both ends of this channel know and nobody else does: 32 bytes (RFC 8446 section 7.5).
func (c *Channel) Exporter() ([]byte, error) {
	cs := c.conn.ConnectionState()
	b, err := cs.ExportKeyingMaterial(token.ExporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	return b, nil
}

// PeerKey is the RFC 7638 thumbprint of the peer's certificate key, which must be on P-256.
func (c *Channel) PeerKey() (string, error) {
	certs := c.conn.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return "", errors.New("peer has no certificate")
	}
	key, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return "", errors.New("the key of the peer's certificate is not on P-256")
	}
	return token.Thumbprint(key), nil
}

// writeChunks writes b in pieces of at most size bytes.
func writeChunks(w io.Writer, b []byte, size int) (int, error) {
	total := 0
	for len(b)-total > size {
		n, err := w.Write(b[total : total+size])
		total += n
		if err != nil {
			return total, err
		}
	}
	n, err := w.Write(b[total:])
	return total + n, err
}

// TLS is what every leg has in common: version 1.3 alone, one application protocol, nothing resumed (a resumed session would outlive what
// its certificates said), and whole records from the first byte on.
func TLS(alpn string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// TLSTo is TLS for whoever connects to a peer whose certificate carries the URI name, signed by one of pool for servers. Names and
// addresses of machines say nothing here.
func TLSTo(alpn string, pool *x509.CertPool, uri string) *tls.Config {
	cfg := TLS(alpn)
	cfg.InsecureSkipVerify = true //nolint:gosec // VerifyConnection takes its place: there is no host name to verify
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verify(cs, alpn, pool, uri) }
	return cfg
}

func verify(cs tls.ConnectionState, alpn string, pool *x509.CertPool, uri string) error {
	if cs.NegotiatedProtocol != alpn {
		return fmt.Errorf("peer speaks %q, not %q", cs.NegotiatedProtocol, alpn)
	}
	if pool == nil || len(cs.PeerCertificates) == 0 {
		return errors.New("no certificate, or nothing to verify it with")
	}
	leaf := cs.PeerCertificates[0]
	others := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		others.AddCert(c)
	}
	opts := x509.VerifyOptions{Roots: pool, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := leaf.Verify(opts); err != nil {
		return fmt.Errorf("verify peer: %w", err)
	}
	for _, u := range leaf.URIs {
		if u.String() == uri {
			return nil
		}
	}
	return fmt.Errorf("verify peer: its certificate does not name %q", uri)
}
