package notify_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/functions/notify"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = []byte("0123456789abcdef0123456789abcdef")

// canaries stand in everything of a record that a message must not say.
const canary = "4111111111111111-canary"

// record is a pending approval made now.
func record(w *brokertest.World, n byte) approval.Record {
	u := ulid.ULID{}
	_ = u.SetTime(ulid.Timestamp(w.Now()))
	u[15] = n
	return approval.Record{ID: access.ApprovalID(u.String()), Status: approval.Pending, Hold: "prod-write", Session: "S", Command: "C", Seq: 3, Digest: canary, Target: "app",
		State: access.State{Database: canary, Role: canary}, Verb: "UPDATE", Normalised: "update accounts -- " + canary, Text: "update accounts set card = '" + canary + "'",
		Params:  []access.Param{{Value: []byte(canary)}},
		Touches: []access.Touch{{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.accounts"}}, {Effect: access.Read, Resource: access.Resource{Kind: access.KindPath, Name: "/home/bob.canary@example.com/x"}}},
		Lineage: access.Lineage{Principal: "alice", Path: []access.Node{{ID: "r", Name: "alice"}, {ID: "c", Name: "coder", Purpose: canary}}},
		Agent:   "edge", Reviewers: []string{"reviewers"}, Created: w.Now(), Expires: w.Now().Add(15 * time.Minute)}
}

func put(t *testing.T, items store.Items, r approval.Record, version int64) {
	t.Helper()
	p, err := approval.Put(r, store.Cond{Version: version})
	brokertest.Must(t, err)
	brokertest.Must(t, items.Put(t.Context(), p))
}

// box is what the channels have delivered, and how they fail.
type box struct {
	mu    sync.Mutex
	mails []notify.Mailing
	posts map[string][][]byte
	fail  func(channel string) error
}

func (b *box) Send(_ context.Context, m notify.Mailing) error {
	return b.take("mail", func() { b.mails = append(b.mails, m) })
}

func (b *box) Post(_ context.Context, id string, body []byte) error {
	return b.take("hook", func() { b.posts[id] = append(b.posts[id], body) })
}

func (b *box) take(channel string, keep func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(channel); err != nil {
			return err
		}
	}
	keep()
	return nil
}

func (b *box) counts() (mails, posts int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.posts {
		posts += len(p)
	}
	return len(b.mails), posts
}

func newNotifier(t *testing.T, w *brokertest.World, b *box, figures func(notify.Figures)) *notify.Notifier {
	t.Helper()
	n, err := notify.New(notify.Config{Items: w.Items, Console: "https://gate.example/", Mail: b, From: "gate@example.com", To: []string{"one@example.com", "two@example.com"}, Hook: b,
		Figures: figures, Now: w.Now})
	brokertest.Must(t, err)
	return n
}

func changed(t *testing.T, n *notify.Notifier, r approval.Record) error {
	t.Helper()
	k, err := approval.Key(r.ID)
	brokertest.Must(t, err)
	return n.Changed(t.Context(), k.PK, k.SK)
}

func TestOnceEach(t *testing.T) {
	w, b := brokertest.New(t), &box{posts: map[string][][]byte{}}
	r := record(w, 1)
	put(t, w.DB, r, 0)
	n, other := newNotifier(t, w, b, nil), newNotifier(t, w, b, nil)
	var wg sync.WaitGroup
	for range 8 { // the stream repeats itself, to several processes at once
		for _, n := range []*notify.Notifier{n, other} {
			wg.Go(func() { brokertest.Must(t, changed(t, n, r)) })
		}
	}
	wg.Wait()
	brokertest.Must(t, n.Sweep(t.Context()))
	brokertest.Must(t, newNotifier(t, w, b, nil).Sweep(t.Context()))
	if m, p := b.counts(); m != 1 || p != 1 {
		t.Fatalf("%d mails and %d webhooks, want one each", m, p)
	}
	r.Status, r.By, r.DecidedAt = approval.Approved, "rita", w.Now()
	put(t, w.DB, r, 1)
	for range 3 {
		brokertest.Must(t, changed(t, n, r))
	}
	if m, p := b.counts(); m != 1 || p != 2 {
		t.Errorf("%d mails and %d webhooks after the verdict, want 1 and 2", m, p)
	}
	var h notify.Hook
	brokertest.Must(t, json.Unmarshal(b.posts[string(r.ID)+".approval.decided"][0], &h))
	if h.Status != approval.Approved || h.Event != "approval.decided" || h.Link != "https://gate.example/approve/"+string(r.ID) {
		t.Errorf("%+v", h)
	}
	for _, k := range []store.Key{{PK: "holds#x", SK: "slots"}, {PK: "day#2020-01-01", SK: string(r.ID)}, {PK: "outbox#day#2020-01-01", SK: string(r.ID) + "#x"}} {
		brokertest.Must(t, n.Changed(t.Context(), k.PK, k.SK))
	}
}

// What a message says is names; nothing of what a mask could hide.
func TestMessagesHideWhatMaskingHides(t *testing.T) {
	w, b := brokertest.New(t), &box{posts: map[string][][]byte{}}
	r := record(w, 1)
	r.Touches = append(r.Touches, access.Touch{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "x\r\nBcc: evil@example.com\u202e"}})
	r.Verb = "UPDATE\r\nX-Evil: 1"
	put(t, w.DB, r, 0)
	brokertest.Must(t, changed(t, newNotifier(t, w, b, nil), r))
	m, err := mail.ReadMessage(bytes.NewReader(b.mails[0].Raw))
	brokertest.Must(t, err)
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	brokertest.Must(t, err)
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	brokertest.Must(t, err)
	hook := string(b.posts[string(r.ID)+".approval.requested"][0])
	for _, want := range []string{"alice", "coder", "app", "edge", "prod-write", "public.accounts", "https://gate.example/approve/" + string(r.ID)} {
		if !strings.Contains(string(body), want) || !strings.Contains(hook, want) {
			t.Errorf("%q is not said:\n%s\n%s", want, body, hook)
		}
	}
	for _, said := range []string{string(body), hook, subject, string(b.mails[0].Raw)} {
		if strings.Contains(said, "canary") {
			t.Errorf("a value that masking hides: %s", said)
		}
		if strings.ContainsRune(said, '\u202e') {
			t.Errorf("a character that turns text around: %q", said)
		}
	}
	if m.Header.Get("Bcc") != "" || m.Header.Get("X-Evil") != "" || !strings.Contains(subject, "UPDATE··X-Evil: 1") {
		t.Errorf("a name made a header: %v", m.Header)
	}
	if m.Header.Get("Message-ID") != "<"+string(r.ID)+".approval.requested@example.com>" || m.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("%v", m.Header)
	}
	if d, err := m.Header.Date(); err != nil || d.Sub(w.Now()).Abs() > time.Minute {
		t.Errorf("date %v %v", d, err)
	}
}

// A channel that fails keeps neither the other nor what comes after; it is tried again after a pause, and given up in the end.
func TestRetries(t *testing.T) {
	w, b := brokertest.New(t), &box{posts: map[string][][]byte{}}
	var log bytes.Buffer
	var seen notify.Figures
	n, err := notify.New(notify.Config{Items: w.Items, Console: "https://gate.example", Mail: b, From: "gate@example.com", To: []string{"one@example.com"}, Hook: b,
		Figures: func(f notify.Figures) { seen = f }, Now: w.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	brokertest.Must(t, err)
	poison, fine := record(w, 1), record(w, 2)
	poison.Expires = w.Now().Add(20 * time.Hour)
	put(t, w.DB, poison, 0)
	put(t, w.DB, fine, 0)
	tries := 0
	b.fail = func(channel string) error {
		if channel == "mail" {
			if tries++; tries < 3 {
				return errors.New("452 try later")
			}
		}
		return nil
	}
	if err := changed(t, n, poison); err == nil {
		t.Error("a failure was swallowed")
	}
	brokertest.Must(t, changed(t, n, poison)) // within the pause nobody tries
	if _, p := b.counts(); tries != 1 || p != 1 {
		t.Errorf("%d tries, %d webhooks", tries, p)
	}
	w.Advance(time.Minute)
	if err := n.Sweep(t.Context()); err == nil || seen.Failed != 1 || seen.Pending != 2 || seen.Oldest != time.Minute {
		t.Errorf("%v %+v", err, seen)
	}
	w.Advance(time.Minute)
	brokertest.Must(t, n.Sweep(t.Context()))
	if m, p := b.counts(); m != 2 || p != 2 {
		t.Errorf("%d mails, %d webhooks", m, p)
	}
	// For ever: given up, and said so.
	r := record(w, 3)
	r.Expires = w.Now().Add(20 * time.Hour)
	put(t, w.DB, r, 0)
	before := tries
	b.fail = func(channel string) error {
		if channel == "mail" {
			tries++
			return errors.New("550 no")
		}
		return nil
	}
	for range 60 {
		_ = n.Sweep(t.Context())
		w.Advance(10 * time.Minute)
	}
	if tries-before != 20 || !strings.Contains(log.String(), "given up") {
		t.Errorf("%d tries: %s", tries-before, log.String())
	}
}

// Killed between sending and marking, it comes twice and never not at all; a store that fails at any step loses nothing.
func TestFaults(t *testing.T) {
	for step := 1; step <= 6; step++ {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			t.Run(fmt.Sprintf("call %d applied=%v", step, fault == storetest.Applied), func(t *testing.T) {
				w, b := brokertest.New(t), &box{posts: map[string][][]byte{}}
				r := record(w, 1)
				put(t, w.DB, r, 0)
				count := 0
				w.Faults.Set(func(string, string) storetest.Fault {
					if count++; count == step {
						return fault
					}
					return storetest.None
				})
				first := changed(t, newNotifier(t, w, b, nil), r)
				w.Faults.Set(nil)
				m, p := b.counts()
				if first == nil && (m != 1 || p != 1) {
					t.Errorf("%d mails and %d webhooks, and no error", m, p)
				}
				w.Advance(31 * time.Second) // the lease is over
				brokertest.Must(t, newNotifier(t, w, b, nil).Sweep(t.Context()))
				if m, p := b.counts(); m < 1 || m > 2 || p < 1 || p > 2 || m+p > 3 {
					t.Errorf("%d mails, %d webhooks", m, p)
				}
			})
		}
	}
}

func TestExpiryIsTold(t *testing.T) {
	w, b := brokertest.New(t), &box{posts: map[string][][]byte{}}
	r := record(w, 1)
	put(t, w.DB, r, 0)
	var seen notify.Figures
	n := newNotifier(t, w, b, func(f notify.Figures) { seen = f })
	brokertest.Must(t, n.Sweep(t.Context()))
	w.Advance(16 * time.Minute)
	brokertest.Must(t, n.Sweep(t.Context()))
	if len(b.posts[string(r.ID)+".approval.decided"]) != 1 || !strings.Contains(string(b.posts[string(r.ID)+".approval.decided"][0]), `"status":"expired"`) || seen.Pending != 0 {
		t.Errorf("%v %+v", b.posts, seen)
	}
	w.Advance(2 * time.Hour)
	brokertest.Must(t, newNotifier(t, w, b, nil).Sweep(t.Context()))
	if m, p := b.counts(); m != 1 || p != 2 {
		t.Errorf("%d mails, %d webhooks", m, p)
	}
}

// backend is a mail server's other side.
type backend struct {
	mu   sync.Mutex
	got  []string
	auth bool
	deny bool
}

type mailSession struct {
	b  *backend
	to []string
}

func (b *backend) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{b: b}, nil }
func (s *mailSession) Mail(string, *smtp.MailOptions) error    { return nil }
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.b.deny && len(s.to) > 0 {
		return &smtp.SMTPError{Code: 550, Message: "no such mailbox"}
	}
	s.to = append(s.to, to)
	return nil
}
func (s *mailSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.got = append(s.b.got, strings.Join(s.to, " ")+"\n"+string(b))
	return err
}
func (s *mailSession) Reset()                   { s.to = nil }
func (s *mailSession) Logout() error            { return nil }
func (s *mailSession) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *mailSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "gate" || password != "secret" {
			return errors.New("no")
		}
		s.b.mu.Lock()
		defer s.b.mu.Unlock()
		s.b.auth = true
		return nil
	}), nil
}

// certificate is a server's own, with the pool that knows it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], pool
}

func serveMail(t *testing.T, b *backend, cert *tls.Certificate) string {
	t.Helper()
	s := smtp.NewServer(b)
	s.Domain, s.ErrorLog = "mail.test", nilLogger{}
	if cert != nil {
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	brokertest.Must(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().String()
}

type nilLogger struct{}

func (nilLogger) Printf(string, ...any) {}
func (nilLogger) Println(...any)        {}

func TestSMTP(t *testing.T) {
	cert, pool := certificate(t)
	m := notify.Mailing{From: "gate@example.com", To: []string{"one@example.com", "two@example.com"}, Raw: []byte("Subject: x\r\n\r\n.hidden dot\r\n")}
	dial := func(address string, c notify.SMTPConfig) error {
		c.Address = address
		if c.TLS == nil {
			c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
		}
		s, err := notify.NewSMTP(c)
		brokertest.Must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return s.Send(ctx, m)
	}
	b := &backend{}
	at := serveMail(t, b, &cert)
	brokertest.Must(t, dial(at, notify.SMTPConfig{User: "gate", Password: secret.New("secret")}))
	if len(b.got) != 1 || !b.auth || !strings.HasPrefix(b.got[0], "one@example.com two@example.com\n") || !strings.Contains(b.got[0], "\r\n.hidden dot") {
		t.Errorf("%q", b.got)
	}
	if err := dial(at, notify.SMTPConfig{User: "gate", Password: secret.New("guess")}); err == nil || strings.Contains(err.Error(), "guess") {
		t.Errorf("a wrong password: %v", err)
	}
	if err := dial(at, notify.SMTPConfig{TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}}); err == nil {
		t.Error("a server that nobody knows got a message")
	}
	b.deny = true
	if err := dial(at, notify.SMTPConfig{}); err == nil {
		t.Error("a recipient was refused, and that was success")
	}
	if len(b.got) != 1 {
		t.Errorf("%d messages", len(b.got))
	}
	open := &backend{}
	if err := dial(serveMail(t, open, nil), notify.SMTPConfig{User: "gate", Password: secret.New("secret")}); err == nil || !strings.Contains(err.Error(), "STARTTLS") || open.auth || len(open.got) != 0 {
		t.Errorf("without STARTTLS: %v", err)
	}
	// Nobody answers: the caller's deadline holds.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	brokertest.Must(t, err)
	defer l.Close()
	s, err := notify.NewSMTP(notify.SMTPConfig{Address: l.Addr().String()})
	brokertest.Must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Send(ctx, m); err == nil {
		t.Error("nobody answered, and that was success")
	}
}

func TestWebhook(t *testing.T) {
	var status, got atomic.Int64
	status.Store(204)
	at := time.Unix(1_800_000_000, 0)
	body := []byte(`{"v":1}`)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		b, _ := io.ReadAll(r.Body)
		// As docs/reference/notifications.md says it is verified.
		stamp, mac, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Sallyport-Signature"), "t="), ",v1=")
		h := hmac.New(sha256.New, key)
		_, _ = io.WriteString(h, stamp+"."+string(b))
		if stamp != "1800000000" || mac != hex.EncodeToString(h.Sum(nil)) || r.Header.Get("Sallyport-Delivery") != "A.approval.requested" || string(b) != string(body) {
			t.Errorf("%v %s", r.Header, b)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
	}))
	defer s.Close()
	c := notify.WebhookConfig{URL: s.URL, Key: key, Private: true, TLS: s.Client().Transport.(*http.Transport).TLSClientConfig, Now: func() time.Time { return at }}
	h, err := notify.NewWebhook(c)
	brokertest.Must(t, err)
	defer h.CloseIdle()
	brokertest.Must(t, h.Post(t.Context(), "A.approval.requested", body))
	for _, bad := range []int64{301, 302, 307, 400, 404, 429, 500} {
		status.Store(bad)
		before := got.Load()
		if err := h.Post(t.Context(), "A.approval.requested", body); err == nil || got.Load() != before+1 {
			t.Errorf("%d: %v, %d calls", bad, err, got.Load()-before)
		}
	}
	// The same server, but as one that a name of the Internet leads to: it is dialled by nobody.
	c.Private = false
	before := got.Load()
	for _, u := range []string{s.URL, strings.Replace(s.URL, "127.0.0.1", "localhost", 1), strings.Replace(s.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		c.URL = u
		h, err := notify.NewWebhook(c)
		brokertest.Must(t, err)
		if err := h.Post(t.Context(), "A.approval.requested", body); err == nil || got.Load() != before || strings.Contains(err.Error(), u) {
			t.Errorf("%s: %v", u, err)
		}
	}
	for _, bad := range []notify.WebhookConfig{{URL: s.URL}, {URL: s.URL, Key: []byte("short")}, {URL: "http://hooks.example.com", Key: key}, {URL: "http://127.0.0.1/x", Key: key},
		{URL: "http://hooks.example.com", Key: key, Private: true}, {URL: "https://u:p@hooks.example.com", Key: key}, {URL: "", Key: key}, {URL: "https://", Key: key}} {
		if _, err := notify.NewWebhook(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
