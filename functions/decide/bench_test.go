package decide_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/token"
)

// BenchmarkCheck decides commands on SQLite in a temporary directory: one session's batch, or as many sessions at once.
// A call includes the agent's signature (made outside the clock, verified inside), JSON both ways, and the fsync.
func BenchmarkCheck(b *testing.B) {
	for _, bb := range []struct {
		name              string
		sessions, command int
	}{{"1", 1, 1}, {"64-of-one-session", 1, 64}, {"64-of-64-sessions", 64, 1}} {
		b.Run(bb.name, func(b *testing.B) {
			w := newWorld(b)
			var sessions []*brokertest.Session
			for range bb.sessions {
				sessions = append(sessions, w.Seed(w.agent, w.alice.Child("coder", access.Everything()), "app"))
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				req := api.CheckRequest{Agent: w.agent.Name}
				for _, s := range sessions {
					var cmds []access.Command
					for i := range bb.command {
						cmds = append(cmds, s.Command(i, access.Read, "public.orders", fmt.Sprintf("select * from orders where id = %d", i)))
					}
					req.Asks = append(req.Asks, s.Ask(cmds...))
					s.Stored(cmds...)
				}
				r := w.agent.Request(api.PathCheck, req)
				rec := httptest.NewRecorder()
				b.StartTimer()
				w.handler.ServeHTTP(rec, r)
				b.StopTimer()
				var resp api.CheckResponse
				if err := json.NewDecoder(bytes.NewReader(rec.Body.Bytes())).Decode(&resp); err != nil || rec.Code != http.StatusOK {
					b.Fatal(rec.Code, rec.Body.String())
				}
				for _, a := range resp.Answers {
					for _, d := range a.Decisions {
						if d.Outcome != access.Allow {
							b.Fatalf("%+v", a)
						}
					}
				}
				b.StartTimer()
			}
			n := float64(b.N * bb.sessions * bb.command)
			b.ReportMetric(float64(b.Elapsed().Microseconds())/n, "µs/decision")
		})
	}
}

// BenchmarkSignature is what verifying the agent's call costs of the above.
func BenchmarkSignature(b *testing.B) {
	w := newWorld(b)
	s := w.Seed(w.agent, w.alice, "app")
	req := api.CheckRequest{Agent: w.agent.Name, Asks: []api.Ask{s.Ask(s.Command(0, access.Read, "public.orders", "x"))}}
	body, err := json.Marshal(req)
	brokertest.Must(b, err)
	r := w.agent.Request(api.PathCheck, req)
	for b.Loop() {
		if _, err := token.VerifyAgent(r, body, w.CA.Cert(), w.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
