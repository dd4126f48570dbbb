package measure

import (
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// Served is a handler on loopback.
type Served struct {
	URL    string
	server *http.Server
	ended  chan error
}

// Serve begins to serve.
func Serve(h http.Handler) (*Served, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Served{URL: "http://" + l.Addr().String(), server: &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}, ended: make(chan error, 1)}
	go func() { s.ended <- s.server.Serve(l) }()
	return s, nil
}

// Close ends what is under way.
func (s *Served) Close() error {
	err := s.server.Close()
	if ended := <-s.ended; !errors.Is(ended, http.ErrServerClosed) {
		return errors.Join(err, ended)
	}
	return err
}

// Proxy passes calls on to a local AWS.
func Proxy(to string) (http.Handler, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host // it is signed
		},
	}, nil
}
