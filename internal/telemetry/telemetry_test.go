package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func lines(t *testing.T, b *bytes.Buffer) (all []map[string]any) {
	t.Helper()
	for l := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
		all = append(all, m)
	}
	return all
}

// Every line of a call carries its ids, those of a command too, and the call's own line its figures.
func TestLinesAndFigures(t *testing.T) {
	var out bytes.Buffer
	tel, err := New(Config{Function: "decide-abc", Out: &out, Figures: true})
	must(t, err)
	log := tel.Log().With("part", "x")
	h := tel.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.InfoContext(InCommand(r.Context(), "S1", "C1"), "decided", "rule", "no-ddl")
		Add(r.Context(), Decisions, 2)
		Add(r.Context(), Decisions, 1)
		Add(r.Context(), Figure("Unknown"), 1)
		Most(r.Context(), SpoolBytes, 7)
		Most(r.Context(), SpoolBytes, 3)
		w.WriteHeader(http.StatusForbidden)
	}))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(WithRequest(t.Context(), "aws-1"), http.MethodPost, "/decide/check?x=secret", nil))
	got := lines(t, &out)
	if len(got) != 2 || rec.Header().Get(HeaderRequest) != "aws-1" {
		t.Fatalf("%v", got)
	}
	for _, l := range got {
		if l["request"] != "aws-1" || l["time"] == "" || l["level"] != "INFO" {
			t.Errorf("%v", l)
		}
	}
	if got[0]["session"] != "S1" || got[0]["command"] != "C1" || got[0]["part"] != "x" || got[0]["rule"] != "no-ddl" {
		t.Errorf("%v", got[0])
	}
	call := got[1]
	if call["Decisions"] != 3.0 || call["SpoolBytes"] != 7.0 || call["Function"] != "decide-abc" || call["status"] != 403.0 || call["route"] != "POST /decide/check" || call["Unknown"] != nil {
		t.Errorf("%v", call)
	}
	// The format's rules: a time in milliseconds, a namespace, dimensions and metrics whose values are members of the line itself.
	aws := call["_aws"].(map[string]any)
	d := aws["CloudWatchMetrics"].([]any)[0].(map[string]any)
	if at := time.UnixMilli(int64(aws["Timestamp"].(float64))); time.Since(at).Abs() > time.Minute || d["Namespace"] != "Sallyport" {
		t.Errorf("%v", aws)
	}
	for _, dims := range d["Dimensions"].([]any) {
		for _, n := range dims.([]any) {
			if _, ok := call[n.(string)].(string); !ok {
				t.Errorf("dimension %v has no value", n)
			}
		}
	}
	for _, m := range d["Metrics"].([]any) {
		name := m.(map[string]any)["Name"].(string)
		if _, ok := call[name].(float64); !ok || m.(map[string]any)["Unit"] != units[Figure(name)] {
			t.Errorf("metric %v", m)
		}
	}
	// What neither failed nor counts anything is not worth a line.
	out.Reset()
	tel.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/changes", nil))
	if out.Len() != 0 {
		t.Error(out.String())
	}
}

// Where one call at a time is served, its lines carry its id also where nobody passed the context on.
func TestSingle(t *testing.T) {
	var out bytes.Buffer
	tel, err := New(Config{Function: "seal", Out: &out, Single: true})
	must(t, err)
	for _, id := range []string{"r1", "r2"} {
		if err := tel.Run(t.Context(), id, "seal", func(context.Context) error {
			tel.Log().Warn("slow")
			return errors.New("broken")
		}); err == nil {
			t.Error("the error is lost")
		}
	}
	for i, l := range lines(t, &out) {
		if want := []string{"r1", "r2"}[i/3]; l["request"] != want {
			t.Errorf("%v, want %s", l, want)
		}
	}
}

func TestNothingSecret(t *testing.T) {
	var out bytes.Buffer
	spans := newCollector(t)
	tel, err := New(Config{Function: "x", Out: &out, Getenv: spans.getenv})
	must(t, err)
	jwt := "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnY2FuYXJ5"
	_ = tel.Run(t.Context(), "r", "x", func(ctx context.Context) error {
		log := tel.Log().With("token", jwt)
		log.InfoContext(ctx, "with "+jwt, "password", secret.New("canary"), "error", errors.New("call: Authorization: DPoP "+jwt), "join", "sallyport-join-canarycanarycanary",
			slog.Group("g", "inner", jwt), "long", strings.Repeat("x", 5000)+"canary")
		_, s, end := tel.Start(ctx, "call", KindClient)
		s.Set("a", "Bearer canarycanarycanarycanary")
		s.Set("b", jwt)
		s.Set("c", secret.New("canary"))
		end(true)
		return errors.New("refused: " + jwt)
	})
	tel.Flush(t.Context())
	for what, text := range map[string]string{"lines": out.String(), "spans": spans.text()} {
		if text == "" || strings.Contains(text, "canary") || strings.Contains(text, "eyJ") {
			t.Errorf("%s: %s", what, text)
		}
	}
}

func TestRoutes(t *testing.T) {
	for path, want := range map[string]string{"/decide/check": "/decide/check", "/approve/01KABC": "/approve/…", "/": "/", "": "", "/api/approvals/01ABC": "/api/approvals/…", "/.well-known/sallyport": "/.well-known/sallyport",
		"/select secret": "/select…", "/a/b/c/d": "/a/b/…", "/" + strings.Repeat("a", 100): "/" + strings.Repeat("a", 39) + "…"} {
		if got := routeOf(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// collector is the other end: it takes what the official messages have, and nothing else.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	got   []exportRequest
	raw   []string
	head  http.Header
	code  int
	stall chan struct{}
}

func newCollector(t testing.TB) *collector {
	c := &collector{code: http.StatusOK}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stall != nil {
			select {
			case <-c.stall:
			case <-r.Context().Done():
			}
			return
		}
		b, _ := io.ReadAll(r.Body)
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		var e exportRequest
		if err := d.Decode(&e); err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.URL.Path, b, err)
		}
		c.got, c.raw, c.head = append(c.got, e), append(c.raw, string(b)), r.Header
		w.WriteHeader(c.code)
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) getenv(k string) string {
	return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL + "/", "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b, x-two=2"}[k]
}

func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.raw, "\n")
}

// A trace that an agent began goes on in the function, and what the function calls goes on from there.
func TestTraces(t *testing.T) {
	c := newCollector(t)
	agent, err := New(Config{Function: "sallyport-agent", Out: io.Discard, Getenv: c.getenv})
	must(t, err)
	var out bytes.Buffer
	fn, err := New(Config{Function: "decide", Out: &out, Getenv: c.getenv})
	must(t, err)
	ctx, s, end := agent.Start(t.Context(), "POST /decide/check", KindClient)
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/decide/check", nil)
	r.Header.Set("Traceparent", s.Context().Traceparent())
	fn.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, inner, end := fn.Start(r.Context(), "store", KindInternal)
		inner.Set("table", "audit")
		end(false)
		fn.Log().InfoContext(r.Context(), "x")
		w.WriteHeader(http.StatusInternalServerError)
	})).ServeHTTP(httptest.NewRecorder(), r)
	end(false)
	fn.Flush(t.Context())
	agent.Flush(t.Context())
	if len(c.got) != 2 || c.head.Get("X-Key") != "a b" || c.head.Get("X-Two") != "2" {
		t.Fatalf("%d exports, %v", len(c.got), c.head)
	}
	store, call, client := c.got[0].ResourceSpans[0].ScopeSpans[0].Spans[0], c.got[0].ResourceSpans[0].ScopeSpans[0].Spans[1], c.got[1].ResourceSpans[0].ScopeSpans[0].Spans[0]
	if store.Parent != call.SpanID || call.Parent != client.SpanID || client.Parent != "" || store.TraceID != client.TraceID || call.TraceID != client.TraceID || len(client.TraceID) != 32 {
		t.Errorf("%+v\n%+v\n%+v", store, call, client)
	}
	if call.Kind != 2 || client.Kind != 3 || call.Status.Code != 2 || client.Status.Code != 0 || call.Name != "POST /decide/check" || *store.Attributes[0].Value.String != "audit" {
		t.Errorf("%+v", call)
	}
	if l := lines(t, &out)[0]; l["trace"] != client.TraceID {
		t.Errorf("%v", l)
	}
	// What nobody samples is not sent, and a caller who does not sample is followed.
	r.Header.Set("Traceparent", strings.TrimSuffix(s.Context().Traceparent(), "1")+"0")
	fn.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(httptest.NewRecorder(), r)
	fn.Flush(t.Context())
	if len(c.got) != 2 {
		t.Error("an unsampled span was sent")
	}
}

// A collector that is away, refuses or stalls costs half a second at most, and no memory without end.
func TestCollectorAway(t *testing.T) {
	c := newCollector(t)
	var out bytes.Buffer
	tel, err := New(Config{Function: "x", Out: &out, Getenv: c.getenv})
	must(t, err)
	fill := func(n int) {
		for range n {
			_, _, end := tel.Start(t.Context(), "x", KindInternal)
			end(false)
		}
	}
	fill(maxWaiting + 10)
	c.code = http.StatusServiceUnavailable
	tel.Flush(t.Context())
	if !strings.Contains(out.String(), "status 503") {
		t.Error(out.String())
	}
	out.Reset()
	c.code = http.StatusOK
	fill(maxWaiting + 10)
	tel.Flush(t.Context())
	if n := len(c.got[1].ResourceSpans[0].ScopeSpans[0].Spans); n != maxWaiting || !strings.Contains(out.String(), "10 spans were dropped") {
		t.Errorf("%d spans: %s", n, out.String())
	}
	out.Reset()
	c.mu.Lock()
	c.stall = make(chan struct{})
	c.mu.Unlock()
	fill(1)
	start := time.Now()
	tel.Flush(t.Context())
	if took := time.Since(start); took > 5*exportLimit || !strings.Contains(out.String(), "not taken") {
		t.Errorf("%s: %s", took, out.String())
	}
	close(c.stall)
	// A process that runs on sends by itself, and what is left at its end.
	c.mu.Lock()
	c.stall, c.got = nil, nil
	c.mu.Unlock()
	fill(3)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	tel.Keep(ctx)
	if len(c.got) != 1 {
		t.Errorf("%d exports", len(c.got))
	}
}

func TestSettings(t *testing.T) {
	for name, tt := range map[string]struct {
		vars map[string]string
		ok   bool
	}{
		"none":             {nil, true},
		"https":            {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example:4318"}, true},
		"loopback":         {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, true},
		"plain elsewhere":  {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel.example:4318"}, false},
		"no URL":           {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "otel"}, false},
		"a user in it":     {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://u:p@otel.example"}, false},
		"no header":        {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://x", "OTEL_EXPORTER_OTLP_HEADERS": "abc"}, false},
		"a header of two":  {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://x", "OTEL_EXPORTER_OTLP_HEADERS": "a=b%0d%0ac"}, false},
		"a ratio":          {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://x", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, true},
		"a ratio over all": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://x", "OTEL_TRACES_SAMPLER_ARG": "NaN"}, false},
	} {
		_, err := New(Config{Function: "x", Out: io.Discard, Getenv: func(k string) string { return tt.vars[k] }})
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	var none *Telemetry
	none.Log().Info("x")
	none.Flush(t.Context())
	none.Keep(t.Context())
	_, s, end := none.Start(t.Context(), "x", KindClient)
	s.Set("a", "b")
	end(true)
	if err := none.Run(t.Context(), "", "x", func(context.Context) error { return nil }); err != nil || s.Context().Sampled {
		t.Error(err)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more")
	f.Add("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
	f.Add("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := ParseTraceparent(s)
		if !ok {
			if c != (SpanContext{}) {
				t.Fatalf("%+v without a trace", c)
			}
			return
		}
		again, ok := ParseTraceparent(c.Traceparent())
		if !ok || again != c || !strings.Contains(s, c.Trace.String()) {
			t.Fatalf("%q is %+v, and then %+v", s, c, again)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJ.x")
	f.Fuzz(func(t *testing.T, s string) {
		if out := clean(s); len(out) > maxText+3 {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
