package broker

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

// address is a broker's URL, taken apart.
type address struct {
	base string // https://host[:port], no slash at the end
	host string
	pin  []byte // SHA-256 of the CA's certificate; nil: the system's roots
}

// parseAddress reads https://HOST[:PORT][/][#ca=PIN].
func parseAddress(s string) (address, error) {
	u, err := url.Parse(s)
	if err != nil {
		return address{}, fmt.Errorf("broker URL: %w", err)
	}
	if u.Scheme != "https" {
		return address{}, fmt.Errorf("broker URL %q: only https is spoken", s)
	}
	if u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || (u.Path != "" && u.Path != "/") {
		return address{}, fmt.Errorf("broker URL %q: want https://HOST[:PORT][/#ca=PIN]", s)
	}
	a := address{base: "https://" + u.Host, host: u.Hostname()}
	if u.Fragment == "" && !strings.Contains(s, "#") {
		return a, nil
	}
	raw, ok := strings.CutPrefix(u.Fragment, "ca=")
	if !ok {
		return address{}, fmt.Errorf("broker URL: the fragment is not ca=PIN")
	}
	if a.pin, err = base64.RawURLEncoding.Strict().DecodeString(raw); err != nil || len(a.pin) != sha256.Size {
		return address{}, errors.New("broker URL: the pin is not the base64url SHA-256 of a certificate")
	}
	return a, nil
}

// Limits of connections. A call's own deadline is its context's; callTimeout is for callers that set none.
const (
	callTimeout      = 30 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second // less than the server's, so that it is we who close
	idleConnections  = 8
	// maxConnections bounds what one process opens to one host, whatever comes to it at once: calls beyond it wait, within their deadlines.
	maxConnections = 32
)

// client is HTTP/1.1 on kept connections: an agent has at most two calls in flight, and there one connection per call
// measured faster than streams of one HTTP/2 connection (BenchmarkCall).
func (a address) client() *http.Client {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: a.tls(), TLSHandshakeTimeout: handshakeTimeout, IdleConnTimeout: idleTimeout,
		MaxIdleConnsPerHost: idleConnections, MaxConnsPerHost: maxConnections, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		Protocols: new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return &http.Client{
		Transport: t, Timeout: callTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // and a 3xx is no answer
	}
}

func (a address) tls() *tls.Config {
	if a.pin == nil {
		return &tls.Config{MinVersion: tls.VersionTLS12} // a public endpoint of the cloud
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard verification knows the system's roots only; VerifyConnection does all of its work for the pinned one, at
		// every handshake.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection:   a.verify,
	}
}

// verify accepts exactly a leaf that the pinned CA signed, for this host, as a broker.
func (a address) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) < 2 {
		return errors.New("broker: the server did not send its CA's certificate")
	}
	leaf, roots := cs.PeerCertificates[0], x509.NewCertPool()
	found := false
	for _, c := range cs.PeerCertificates[1:] {
		if h := sha256.Sum256(c.Raw); subtle.ConstantTimeCompare(h[:], a.pin) == 1 {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return errors.New("broker: the server's CA is not the pinned one")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: a.host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	for _, u := range leaf.URIs {
		if u.String() == token.URIBroker {
			return nil
		}
	}
	return errors.New("broker: the server's certificate is not a broker's")
}
