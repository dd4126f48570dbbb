package postgres

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"
)

// alpn names the protocol in TLS (PostgreSQL manual, "ALPN"): what begins with TLS at once must say it.
const alpn = "postgresql"

// certificate is what the room shows a client that wants TLS up to here. It is nobody's but this process's: what proves the room to the
// client is SCRAM with channel binding, since nobody else has the endpoint's verifier.
type certificate struct {
	config  *tls.Config
	binding []byte // tls-server-end-point, RFC 5929
}

func newCertificate() (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "sallyport"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "sallyport"}}, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	sum := sha256.Sum256(der) // it is signed with SHA-256
	return &certificate{binding: sum[:], config: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{alpn},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}, nil
}

// preface deals with what may come before the startup packet: TLS at once, or requests for encryption. It returns the connection on
// which the startup packet comes next, and the binding where that is TLS. It reads no byte more than it deals with: what a stranger
// put behind a request for TLS can only be taken for TLS.
func (r *Room) preface(ctx context.Context, client net.Conn) (net.Conn, []byte, error) {
	ctx, stop := context.WithTimeout(ctx, handshakeWait)
	defer stop()
	end := context.AfterFunc(ctx, func() { _ = client.SetReadDeadline(time.Now()) })
	conn, binding, err := r.prefaced(ctx, client)
	if !end() {
		return nil, nil, errors.Join(err, context.Cause(ctx))
	}
	return conn, binding, err
}

func (r *Room) prefaced(ctx context.Context, client net.Conn) (net.Conn, []byte, error) {
	seen := make(map[uint32]bool, 2)
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(client, head[:1]); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errClientGone, err)
		}
		if head[0] == 0x16 && len(seen) == 0 { // the record type of a TLS handshake: no startup packet is so long
			return r.encrypt(ctx, &replayed{Conn: client, first: head[:1]}, true)
		}
		if _, err := io.ReadFull(client, head[1:4]); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errClientGone, err)
		}
		n := binary.BigEndian.Uint32(head)
		if n < 8 || n > maxStartup {
			return &replayed{Conn: client}, nil, violated("startup packet of %d bytes", n)
		}
		if _, err := io.ReadFull(client, head[4:]); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errClientGone, err)
		}
		code := binary.BigEndian.Uint32(head[4:])
		if code != codeSSL && code != codeGSS {
			return &replayed{Conn: client, first: head}, nil, nil
		}
		if n != 8 || seen[code] {
			return &replayed{Conn: client}, nil, violated("a malformed request for encryption, or a second one")
		}
		seen[code] = true
		if code == codeSSL {
			if _, err := client.Write([]byte{'S'}); err != nil {
				return nil, nil, fmt.Errorf("%w: %w", errClientGone, err)
			}
			return r.encrypt(ctx, client, false)
		}
		if _, err := client.Write([]byte{'N'}); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errClientGone, err)
		}
	}
}

func (r *Room) encrypt(ctx context.Context, client net.Conn, direct bool) (net.Conn, []byte, error) {
	cert, err := r.certificate()
	if err != nil {
		return nil, nil, err
	}
	secured := tls.Server(client, cert.config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("%w: TLS: %w", errClientGone, err)
	}
	if direct && secured.ConnectionState().NegotiatedProtocol != alpn {
		return secured, nil, violated("TLS without a request needs ALPN protocol %q", alpn)
	}
	return secured, cert.binding, nil
}

// replayed gives back the bytes that were looked at.
type replayed struct {
	net.Conn
	first []byte
}

func (c *replayed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
