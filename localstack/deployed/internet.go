package deployed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// internet stands for what lies between our programs and AWS: function URLs are reached by their own names, over TLS whose certificates
// the programs' system roots vouch for. It is a proxy that programs take by HTTPS_PROXY, with a root of this run (SSL_CERT_FILE); what
// comes for a function URL goes to the local AWS, and nothing goes anywhere else.
type internet struct {
	addr   string
	root   string // file
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	leaf   *ecdsa.PrivateKey
	direct http.Handler // to the emulator

	mu      sync.Mutex
	running []*http.Server
	served  sync.WaitGroup
}

func newInternet(endpoint, rootFile string) (*internet, error) {
	e, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	n := &internet{addr: fmt.Sprintf("127.0.0.1:%d", port), root: rootFile}
	for _, k := range []**ecdsa.PrivateKey{&n.key, &n.leaf} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a public root, for this run"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &n.key.PublicKey, n.key)
	if err != nil {
		return nil, err
	}
	if n.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	n.direct = &httputil.ReverseProxy{ErrorLog: quiet(), Transport: &http.Transport{MaxIdleConnsPerHost: 32, IdleConnTimeout: emulatorIdle, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", e.Host, r.In.Host
		}}
	// Programs of other users trust it as well.
	return n, os.WriteFile(rootFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644) //nolint:gosec // public
}

// certificate is made for each name that is asked for.
func (n *internet) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !strings.Contains(h.ServerName, ".lambda-url.") {
		return nil, fmt.Errorf("%q is no function URL", h.ServerName)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: serial, DNSNames: []string{h.ServerName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, t, n.ca, &n.leaf.PublicKey, n.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: n.leaf}, err
}

// start takes calls; stopping and starting again is how an outage of the broker is tried out.
func (n *internet) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running != nil {
		return nil
	}
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	inside := &tunnels{conns: make(chan net.Conn), closed: make(chan struct{})}
	inner := &http.Server{Handler: n.direct, ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet(), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: n.certificate}}
	outer := &http.Server{Handler: connect(inside), ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet()}
	n.running = []*http.Server{outer, inner}
	n.served.Go(func() { _ = inner.ServeTLS(inside, "", "") }) // both until stop closes them
	n.served.Go(func() { _ = outer.Serve(l) })
	return nil
}

func (n *internet) stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	for _, s := range n.running {
		err = errors.Join(err, s.Close())
	}
	n.running = nil
	n.served.Wait()
	return err
}

func (n *internet) address() string { return n.addr }

func (n *internet) shown() any { return &n.leaf.PublicKey }

// connect answers CONNECT and hands the connection over.
func connect(to *tunnels) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, ok := w.(http.Hijacker)
		if r.Method != http.MethodConnect || !ok {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		c, rest, err := h.Hijack()
		if err != nil {
			return
		}
		if _, err = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil || rest.Reader.Buffered() > 0 {
			_ = c.Close()
			return
		}
		to.hand(r.Context(), c)
	})
}

// tunnels is a listener whose connections came by CONNECT.
type tunnels struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (t *tunnels) hand(ctx context.Context, c net.Conn) {
	select {
	case t.conns <- c:
	case <-t.closed:
		_ = c.Close()
	case <-ctx.Done():
		_ = c.Close()
	}
}

func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

func (t *tunnels) Close() error   { t.once.Do(func() { close(t.closed) }); return nil }
func (t *tunnels) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
