package embedded

import (
	"log/slog"
	"net/http"
	"testing"
)

func TestServersLimitStrangers(t *testing.T) {
	s := newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("a server without one of its limits: %+v", s)
	}
}
