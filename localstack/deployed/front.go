package deployed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/api"
)

// front stands where CloudFront may stand on AWS: one name, with TLS, for all function URLs. It sends each path to the function that
// serves it, under that function's own name, and changes nothing.
type front struct {
	addr string
	cert tls.Certificate
	to   map[string]http.Handler // by api.FunctionOf; pages that are nobody's are approve's

	mu      sync.Mutex
	running *http.Server
	served  chan struct{}
}

// newFront sends to the functions' URLs through the emulator at endpoint, whose name service the URLs' hosts are not in.
func newFront(addr, endpoint string, functions map[string]string) (*front, error) {
	e, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 32, IdleConnTimeout: emulatorIdle, DisableCompression: true}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, e.Host)
	}
	f := &front{addr: addr, to: map[string]http.Handler{}}
	for name, raw := range functions {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("URL %q of %s: %w", raw, name, err)
		}
		host := u.Host
		f.to[name] = &httputil.ReverseProxy{Transport: transport, ErrorLog: quiet(), Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", host, host
		}}
	}
	return f, nil
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := api.FunctionOf(r.URL.Path)
	if name == "" {
		name = "token"
		if !tokens[r.URL.Path] {
			name = api.FunctionApprove
		}
	}
	f.to[name].ServeHTTP(w, r)
}

func (f *front) address() string { return f.addr }

func (f *front) shown() any { return f.cert.Leaf.PublicKey }

// quiet takes what net/http says of callers that went away.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// tokens are the paths of functions/token; every other that is nobody's is a page.
var tokens = map[string]bool{api.PathDiscovery: true, api.PathJWKS: true, api.PathToken: true, api.PathRenew: true, api.PathTicket: true, api.PathRevoke: true, api.PathWhoami: true}

// start listens; stopping and starting again is how an outage of the broker is tried out.
func (f *front) start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running != nil {
		return nil
	}
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		return fmt.Errorf("front: %w", err)
	}
	s := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet(), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{f.cert}}}
	f.running, f.served = s, make(chan struct{})
	go func(done chan struct{}) { defer close(done); _ = s.ServeTLS(l, "", "") }(f.served) // until stop closes it
	return nil
}

func (f *front) stop() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running == nil {
		return nil
	}
	err := f.running.Close()
	<-f.served
	f.running = nil
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
