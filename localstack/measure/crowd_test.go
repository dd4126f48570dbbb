package measure_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/measure"
)

// small is a crowd for a test: what is looked at does not depend on its size, or on how long it takes.
var small = measure.Crowd{Agents: 10, Sessions: 3, Commands: 10, Logins: 4, Processes: 3, OneAtATime: true}

// Every decision is one write that is never refused, however many ask and whichever process they meet; nothing that was answered is lost.
func TestCrowdOnTwin(t *testing.T) {
	w, _ := twin(t)
	got, err := small.OnTwin(t.Context(), w, t.TempDir())
	must(t, err)
	calm(t, got)
}

// The same through the SDK, and as DynamoDB would count it: requests, not intentions.
func TestCrowdBehindTheSDK(t *testing.T) {
	w, meter := twin(t)
	crowded(t, w, meter)
}

func crowded(t *testing.T, w *measure.World, meter *measure.Meter) {
	_, err := meter.Take()
	must(t, err)
	got, err := small.OnAWS(t.Context(), w)
	must(t, err)
	calm(t, got)
	use, err := meter.Take()
	must(t, err)
	// Besides entries, what people() made, and the feed's index: a line for each process, minute and minute written to, and one for the day.
	made := small.Logins + small.Agents*small.Sessions
	index := use.Requests["PutItem audit index"]
	writes := use.DynamoDB("PutItem") + use.DynamoDB("TransactWriteItems") - made - index
	if writes != got.Writes || index > small.Processes*4 || float64(writes) > 1.05*float64(got.Decisions) {
		t.Errorf("%d writes for %d decisions, %d of the index: %v", writes, got.Decisions, index, use.Requests)
	}
}

func calm(t *testing.T, got measure.Crowded) {
	t.Helper()
	want := small.Agents * small.Sessions * small.Commands
	if got.Decisions != want || got.Lost != 0 {
		t.Errorf("%d decisions of %d, %d lost", got.Decisions, want, got.Lost)
	}
	if got.Refused != 0 || float64(got.Writes) > 1.05*float64(want) {
		t.Errorf("%d writes for %d decisions, %d refused", got.Writes, want, got.Refused)
	}
	if got.Fairness < 0.8 {
		t.Errorf("fairness %.2f: agents' means lie between %s and %s", got.Fairness, got.FastestMean, got.SlowestMean)
	}
	t.Logf("%+v", got)
}

// Commands of one login that are held compete for its places: who loses asks again, at most once for each place and process beside it.
func TestHeldCrowd(t *testing.T) {
	c := measure.Crowd{Agents: 24, Sessions: 1, Commands: 1, Logins: 1, Processes: 4, OneAtATime: true, Held: true}
	w, _ := twin(t)
	got, err := c.OnAWS(t.Context(), w)
	must(t, err)
	if got.Held != api.MaxHolds || got.Decisions != c.Agents || got.Lost != 0 || got.Refused > api.MaxHolds*(c.Processes-1) {
		t.Errorf("%+v", got)
	}
}
