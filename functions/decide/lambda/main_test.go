package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
)

func TestHandler(t *testing.T) {
	good := map[string]string{"SALLYPORT_URL": "https://b.test", "SALLYPORT_CONSOLE": "https://c.test", "SALLYPORT_STORE": "dir:" + t.TempDir()}
	start := func(key, value string) (http.Handler, error) {
		return handler(context.Background(), func(k string) string {
			if k == key {
				return value
			}
			return good[k]
		}, slog.New(slog.DiscardHandler))
	}
	for _, bad := range [][2]string{{"SALLYPORT_URL", ""}, {"SALLYPORT_CONSOLE", ""}, {"SALLYPORT_STORE", ""}, {"SALLYPORT_STORE", "dir:"}, {"SALLYPORT_STORE", "dynamodb:table"}} {
		_, err := start(bad[0], bad[1])
		if err == nil || !strings.Contains(err.Error(), bad[0]) {
			t.Errorf("%s=%q: %v", bad[0], bad[1], err)
		}
	}
	h, err := start("", "")
	if err != nil {
		t.Fatal(err)
	}
	// It answers, and without a signature it answers no.
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "https://b.test"+api.PathCheck, strings.NewReader("{}")))
	if rec.Code != http.StatusUnauthorized {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
