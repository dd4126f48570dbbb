package decide_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// Whatever happens to a command, neither lines nor spans have its text, a literal, a parameter or a token; but every line has the ids.
func TestTelemetryTellsNoSecrets(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var spans strings.Builder
	c := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(&spans, r.Body)
	}))
	defer c.Close()
	var out bytes.Buffer
	tel, err := telemetry.New(telemetry.Config{Function: "decide", Out: &out, Level: slog.LevelDebug, Figures: true, Getenv: func(k string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL}[k]
	}})
	brokertest.Must(t, err)
	h, err := decide.New(decide.Config{Items: w.Items, Evidence: w.evidence, Uploads: w.granter, Bundles: w, Verifier: w.Verifier, CA: w.CA.Cert(), StateKey: w.StateKey, Console: "https://gate.example", Base: brokertest.Issuer,
		Now: w.Now, Log: tel.Log()})
	brokertest.Must(t, err)
	w.handler = tel.Serve(h)
	const canary = "canary-4111111111111111"
	text := "update accounts set card = '" + canary + "'"
	secrets := []string{canary, w.alice.Token}
	ask := func(e access.Effect, table string) (access.CommandID, api.Answer) {
		s := w.Seed(w.agent, w.alice, "app")
		cmd := s.Command(0, e, table, text)
		cmd.Normalised, cmd.Params = "update accounts set card = '"+canary+"'", []access.Param{{Value: []byte(canary)}}
		secrets = append(secrets, s.Raw)
		return cmd.ID, w.check(s.Ask(cmd))
	}
	want := map[string]string{"allow": "public.orders", "deny": "public.secrets"}
	for outcome, table := range want {
		if _, a := ask(access.Read, table); len(a.Decisions) != 1 || a.Decisions[0].Outcome.String() != outcome {
			t.Fatalf("%s: %s", outcome, outcomes(a))
		}
	}
	ask(access.Write, "public.accounts")
	var ids []string
	for _, op := range []string{"get", "put"} { // stores that fail are where errors are logged
		for n := range 4 {
			w.Faults.Set(storetest.Nth(op, n+1, storetest.NotApplied))
			id, _ := ask(access.Read, "public.orders")
			ids = append(ids, string(id))
			w.Faults.Set(nil)
			w.Advance(2e9)
		}
	}
	open := w.Open(w.agent, w.alice, "app")
	secrets = append(secrets, open.Proof)
	_ = w.agent.Call(w.handler, api.PathOpen, open, new(api.OpenResponse))
	open.Proof = "x" + open.Proof
	_ = w.agent.Call(w.handler, api.PathOpen, open, new(api.OpenResponse))
	for _, body := range []string{`{"agent":"` + canary + `"`, `{"` + canary + `":1}`, canary} { // not signed, not understood
		r := httptest.NewRequest(http.MethodPost, brokertest.Issuer+api.PathCheck+"?q="+canary, strings.NewReader(body))
		r.Header.Set("Authorization", "DPoP "+w.alice.Token)
		w.handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	_ = brokertest.Do(t, w.handler, w.agent.Request(api.PathCheck, map[string]string{canary: canary}), nil)
	tel.Flush(t.Context())
	if !strings.Contains(out.String(), `"msg":"no decision"`) || !strings.Contains(out.String(), `"Denials":1`) || !strings.Contains(spans.String(), "POST /decide/check") {
		t.Fatalf("nothing was told: %s", out.String())
	}
	for _, s := range secrets {
		if strings.Contains(out.String(), s) {
			t.Errorf("a line has %q: %s", s, out.String())
		}
		if strings.Contains(spans.String(), s) {
			t.Errorf("a span has %q", s)
		}
	}
	found := 0
	for l := range strings.Lines(out.String()) {
		if !strings.Contains(l, `"request":"`) || !strings.Contains(l, `"trace":"`) {
			t.Errorf("a line without ids: %s", l)
		}
		for _, id := range ids {
			if strings.Contains(l, `"command":"`+id+`"`) && strings.Contains(l, `"session":"`) {
				found++
			}
		}
	}
	if found < 3 {
		t.Errorf("%d lines name their command: %s", found, out.String())
	}
}
