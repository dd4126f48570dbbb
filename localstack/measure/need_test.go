package measure_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/measure"
)

func TestMain(m *testing.M) {
	// The SDK's clients keep connections that nothing of ours can close; their servers are gone by then, and so are they in a moment.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// twin is a world on the embedded twins, behind the SDK.
func twin(t testing.TB) (*measure.World, *measure.Meter) {
	t.Helper()
	back, err := measure.OpenTwin(t.TempDir())
	must(t, err)
	meter := measure.NewMeter(back)
	served, err := measure.Serve(meter)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(served.Close(), back.Close())) })
	return world(t, served.URL), meter
}

func world(t testing.TB, at string) *measure.World {
	t.Helper()
	getenv, err := measure.Local(at)
	must(t, err)
	p, err := measure.Make(t.Context(), getenv)
	must(t, err)
	t.Cleanup(func() { must(t, p.Remove(context.Background())) })
	w, err := measure.NewWorld(t.Context(), p, getenv)
	must(t, err)
	return w
}

func ask(t testing.TB, h http.Handler, a *measure.Agent, want access.Outcome, n int, sessions ...*measure.Session) {
	t.Helper()
	req := api.CheckRequest{Agent: a.Name}
	for _, s := range sessions {
		q, err := s.Ask(n, want == access.Hold)
		must(t, err)
		req.Asks = append(req.Asks, q)
	}
	r, _, err := a.Request(t.Context(), api.PathCheck, req)
	must(t, err)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	resp, err := measure.ReadAnswer(rec.Code, rec.Body.Bytes())
	must(t, err)
	for i, s := range sessions {
		must(t, s.Answered(req.Asks[i], resp.Answers[i], want))
	}
}

// What a decision needs of AWS, as docs/reference/cost.md says it, on the hot path: the function is warm, the session was looked at within
// the second. The meter stands where AWS would.
func TestWhatADecisionNeeds(t *testing.T) {
	w, meter := twin(t)
	needs(t, w, meter, nil)
}

// needs also compares with what the other side says that it charges, where it does.
func needs(t *testing.T, w *measure.World, meter *measure.Meter, charged func() (read, write float64)) {
	h, err := w.Hot(t.Context())
	must(t, err)
	a, err := w.Agent(t.Context(), "edge")
	must(t, err)
	take := func() measure.Use {
		t.Helper()
		u, err := meter.Take()
		must(t, err)
		if charged == nil {
			return u
		}
		// A write that is refused is charged too, but its answer does not say so.
		if read, write := charged(); u.Refused+u.Unanswered == 0 && (read != u.ReadUnits || write != u.WriteUnits) {
			t.Errorf("%v: read %v write %v, and the other side charges %v and %v", u.Requests, u.ReadUnits, u.WriteUnits, read, write)
		}
		return u
	}
	take()
	warm := func(n int) []*measure.Session {
		l, err := w.Login(t.Context(), "maria@example.com")
		must(t, err)
		var all []*measure.Session
		for range n {
			s, err := w.Session(t.Context(), a, l)
			must(t, err)
			all = append(all, s)
		}
		ask(t, h, a, access.Allow, 1, all...)
		take()
		return all
	}
	all, err := measure.ReadNeeds("../../infra/cost/needs.tsv")
	must(t, err)
	for _, n := range all {
		t.Run(n.Name, func(t *testing.T) {
			if n.Name == measure.FirstOfSecond {
				first(t, w, a, n, take)
				return
			}
			var use measure.Use
			for range 3 { // an answer that is lost on a busy machine is asked for again, and its write refused: that is not what is counted
				sessions := warm(n.Sessions)
				ask(t, h, a, n.Outcome, n.Commands, sessions...)
				if use = take(); use.Unanswered == 0 && use.Refused <= use.Requests["PutItem audit index"] {
					break
				}
			}
			compare(t, use, n)
			if use.S3 != 0 {
				t.Errorf("%d calls of S3", use.S3)
			}
		})
	}
}

func compare(t *testing.T, use measure.Use, n measure.Need) {
	t.Helper()
	puts, index := use.DynamoDB("PutItem")+use.DynamoDB("TransactWriteItems"), use.Requests["PutItem audit index"]
	writes := use.WriteUnits - float64(index) // one each
	got := fmt.Sprintf("%v read %v write %v", use.Requests, use.ReadUnits, use.WriteUnits)
	if use.ReadUnits != n.Reads || writes > n.Writes || writes < n.Writes*0.8 || use.DynamoDB("GetItem") != n.Gets || puts-index != n.Puts || use.KMS != 0 {
		t.Errorf("%s, %d calls of KMS, want %+v", got, use.KMS, n)
	}
	t.Log(got)
}

// first is a decision of a session in a process that has seen neither it nor its agent: as at every second's beginning, but for the policy, which
// it fetches once.
func first(t *testing.T, w *measure.World, a *measure.Agent, n measure.Need, take func() measure.Use) {
	h, err := w.Handler(t.Context())
	must(t, err)
	l, err := w.Login(t.Context(), "maria@example.com")
	must(t, err)
	s, err := w.Session(t.Context(), a, l)
	must(t, err)
	take()
	ask(t, h, a, n.Outcome, n.Commands, s)
	use := take()
	if use.S3 > 1 {
		t.Errorf("%d calls of S3", use.S3)
	}
	compare(t, use, n)
}

// At a minute's beginning a process says once where it writes, however many commands come at once.
func TestAMinuteBeginsOnce(t *testing.T) {
	w, meter := twin(t)
	h, err := w.Hot(t.Context())
	must(t, err)
	a, err := w.Agent(t.Context(), "edge")
	must(t, err)
	l, err := w.Login(t.Context(), "maria@example.com")
	must(t, err)
	all := make([]*measure.Session, 64)
	for i := range all {
		all[i], err = w.Session(t.Context(), a, l)
		must(t, err)
	}
	_, err = meter.Take()
	must(t, err)
	ask(t, h, a, access.Allow, 1, all...)
	use, err := meter.Take()
	must(t, err)
	if n := use.Requests["PutItem audit index"]; n < 2 || n > 4 { // day and minute; twice where a minute ends meanwhile
		t.Errorf("%d: %v", n, use.Requests)
	}
}

// BenchmarkDecide is decide with the SDK and what it calls, in one process: for profiles. What the binary takes, `make bench-aws` says.
func BenchmarkDecide(b *testing.B) {
	w, _ := twin(b)
	h, err := w.Handler(b.Context())
	must(b, err)
	a, err := w.Agent(b.Context(), "edge")
	must(b, err)
	l, err := w.Login(b.Context(), "maria@example.com")
	must(b, err)
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, err := w.Session(b.Context(), a, l)
			must(b, err)
			b.ReportAllocs()
			for b.Loop() {
				ask(b, h, a, access.Allow, n, s)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/decision")
		})
	}
}
