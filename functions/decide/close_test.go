package decide_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

// TestCloseSaysWhatIsStored: the last entry names the last command that is in the evidence, whatever its agent knows of it.
func TestCloseSaysWhatIsStored(t *testing.T) {
	tests := []struct {
		name    string
		arrange func(w *world, s *brokertest.Session, req *api.CloseRequest)
	}{
		{"the agent knows", func(*world, *brokertest.Session, *api.CloseRequest) {}},
		{"the agent never got the last answer", func(w *world, s *brokertest.Session, req *api.CloseRequest) {
			c := s.Command(0, access.Read, "public.orders", "z")
			w.Faults.Set(storetest.Nth("put", 1, storetest.Applied))
			w.check(s.Ask(c))
			w.Faults.Set(nil)
			s.Stored(c)
		}},
		{"the agent crashed", func(_ *world, _ *brokertest.Session, req *api.CloseRequest) {
			req.LastSeq, req.Prev, req.Reason = 0, "", decide.ReasonLost
		}},
		{"the agent crashed and the broker was restarted", func(w *world, _ *brokertest.Session, req *api.CloseRequest) {
			req.LastSeq, req.Prev, req.Reason = 1, "", decide.ReasonLost
			w.handler = w.newHandler(w.Items)
			w.Advance(5 * time.Hour)
		}},
		{"the agent stayed away until after the session's time", func(w *world, _ *brokertest.Session, req *api.CloseRequest) {
			req.LastSeq, req.Prev, req.Reason = 0, "", decide.ReasonLost
			w.handler = w.newHandler(w.Items)
			w.Advance(12*time.Hour + 5*time.Minute)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.Seed(w.agent, w.alice, "app")
			for range 3 {
				cmds := []access.Command{s.Command(0, access.Read, "public.orders", "x"), s.Command(1, access.Read, "public.orders", "y")}
				if a := w.check(s.Ask(cmds...)); outcomes(a) != "allow allow" {
					t.Fatal(outcomes(a))
				}
				s.Stored(cmds...)
				w.Advance(50 * time.Second)
			}
			req := api.CloseRequest{Session: s.State.Session, State: s.Raw, LastSeq: s.Seq, Prev: s.Prev}
			tt.arrange(w, s, &req)
			a := w.Agent("agent-1", "app") // a certificate of now: a day may have gone by
			req.Agent = a.Name
			brokertest.Must(t, a.Call(w.handler, api.PathClose, req, &struct{}{}))
			es := w.kinds(audit.KindClose)
			if len(es) != 1 || es[0].Seq != s.Seq || es[0].Prev != s.Prev {
				t.Errorf("stored %+v, want the end at %d, %s", es, s.Seq, s.Prev)
			}
		})
	}
	t.Run("nothing was ever asked", func(t *testing.T) {
		w := newWorld(t)
		s := w.Seed(w.agent, w.alice, "app")
		brokertest.Must(t, s.Agent.Call(w.handler, api.PathClose, api.CloseRequest{Agent: s.Agent.Name, Session: s.State.Session, State: s.Raw}, &struct{}{}))
		if es := w.kinds(audit.KindClose); len(es) != 1 || es[0].Seq != 0 || es[0].Prev != s.Prev {
			t.Errorf("stored %+v", es)
		}
	})
}
