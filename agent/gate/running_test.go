package gate

import (
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

func TestACommandRunsUntilItsPermitIsDone(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		ps, err := r.g.Check(t.Context(), cmds(2), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range ps {
			if seq, ok := r.g.Running(p.Command()); !ok || seq != uint64(i+1) {
				t.Errorf("command %d: %d, %v", i, seq, ok)
			}
			p.Done(access.Result{Status: access.StatusOK})
			if seq, ok := r.g.Running(p.Command()); ok {
				t.Errorf("command %d still runs as %d", i, seq)
			}
		}
		if _, ok := r.g.Running("unknown"); ok {
			t.Error("an unknown command runs")
		}
	})
}
