package embedded

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/functions/notify"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

// The twin runs the same handler: an approval that is stored becomes a line in the mailbox and a webhook, once each.
func TestApprovalsAreTold(t *testing.T) {
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	hooks := make(chan notify.Hook, 10)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var h notify.Hook
		if err := json.Unmarshal(b, &h); err != nil {
			t.Error(err)
		}
		hooks <- h
	}))
	defer s.Close()
	box := filepath.Join(t.TempDir(), "mail")
	n, err := Notify{MailFile: box, Webhook: s.URL, WebhookKey: secret.New(strings.Repeat("k", 32))}.notifier(db, "http://127.0.0.1:1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); notifying(ctx, n, slog.New(slog.DiscardHandler)) }()
	defer func() { stop(); <-done }()
	now := time.Now()
	r := approval.Record{ID: access.ApprovalID(ulid.Make().String()), Status: approval.Pending, Verb: "UPDATE", Target: "app", Created: now, Expires: now.Add(time.Minute),
		Lineage: access.Lineage{Principal: "alice", Path: []access.Node{{Name: "alice"}}}}
	w, err := approval.Put(r, store.Cond{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Put(ctx, w); err != nil {
		t.Fatal(err)
	}
	select {
	case h := <-hooks:
		if h.Approval != r.ID || h.Principal != "alice" {
			t.Errorf("%+v", h)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no webhook came")
	}
	b, err := os.ReadFile(box)
	if err != nil || strings.Count(string(b), "\nSubject: ") != 1 || !strings.Contains(string(b), "/approve/") {
		t.Errorf("%s %v", b, err)
	}
	for _, bad := range []Notify{{MailFile: "x", SMTP: "y:25"}, {SMTP: "nonsense", To: []string{"a@example.com"}}, {Webhook: "http://example.com", WebhookKey: secret.New(strings.Repeat("k", 32))}, {Webhook: s.URL}} {
		if n, err := bad.notifier(db, "http://127.0.0.1:1", slog.New(slog.DiscardHandler)); err == nil || n != nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if n, err := (Notify{}).notifier(db, "http://127.0.0.1:1", slog.New(slog.DiscardHandler)); n != nil || err != nil {
		t.Errorf("nobody is to be told: %v %v", n, err)
	}
}
