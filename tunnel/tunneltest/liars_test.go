package tunneltest_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/tunnel"
	"github.com/sallyport/sallyport/tunnel/tunneltest"
)

type tunnelCert = tls.Certificate

var (
	serverUse = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	clientUse = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	bothUses  = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// lyingAgent is a relay and, behind it, somebody who answers for every target with cert. What the client says to it comes on the channel.
func lyingAgent(t *testing.T, ca *tunneltest.CA, cert tls.Certificate) (string, chan []byte) {
	return once(t, func(raw net.Conn) []byte {
		outer := tls.Server(raw, serve(tunnel.ALPNStream, ca.Relay(t)))
		if _, err := tunnel.ReadHello(outer); err != nil {
			t.Errorf("hello: %v", err)
			return nil
		}
		if err := tunnel.WriteFrame(outer, api.Welcome{V: tunnel.Version}); err != nil {
			t.Error(err)
		}
		said, _ := io.ReadAll(tls.Server(outer, serve(tunnel.ALPNInner, cert)))
		return said
	})
}

// lyingRelay answers as a relay with cert.
func lyingRelay(t *testing.T, cert tls.Certificate) (string, chan []byte) {
	return once(t, func(raw net.Conn) []byte {
		said, _ := io.ReadAll(tls.Server(raw, serve(tunnel.ALPNStream, cert)))
		return said
	})
}

func serve(alpn string, cert tls.Certificate) *tls.Config {
	cfg := tunnel.TLS(alpn)
	cfg.Certificates = []tls.Certificate{cert}
	return cfg
}

// once serves one connection.
func once(t *testing.T, f func(net.Conn) []byte) (string, chan []byte) {
	l := tunneltest.Listen(t, "")
	said := make(chan []byte, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		defer raw.Close() //nolint:errcheck // a test's
		said <- f(raw)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String(), said
}
