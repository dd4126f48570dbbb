package decide_test

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// gauge counts the uploaded commands that are in memory: read, and not yet kept as bodies.
type gauge struct {
	mu        sync.Mutex
	now, most int
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

type gaugedUploads struct {
	store.Uploads
	g *gauge
}

func (u gaugedUploads) Open(ctx context.Context, name string) ([]byte, error) {
	u.g.add(1)
	return u.Uploads.Open(ctx, name)
}

type gaugedBlobs struct {
	store.Blobs
	g *gauge
}

func (b gaugedBlobs) Create(ctx context.Context, name string, body []byte) error {
	defer b.g.add(-1)
	return b.Blobs.Create(ctx, name, body)
}

// One call may name an upload of 32 MB for each of 64 sessions: they must not all be in memory at once.
func TestManyUploadsInOneCallTakeTurns(t *testing.T) {
	w := newWorld(t)
	g := &gauge{}
	w.granter, w.evidence = gaugedUploads{w.uploads, g}, gaugedBlobs{w.evidence, g}
	w.handler = w.newHandler(w.Items)
	var asks []api.Ask
	for range 12 {
		s := w.Seed(w.agent, w.alice, "app")
		c := s.Command(0, access.Write, "public.orders", large(500_000))
		b, err := json.Marshal([]access.Command{c})
		brokertest.Must(t, err)
		up := w.put(t, s, b, c.ID)
		a := s.Ask()
		a.Uploaded = &up
		asks = append(asks, a)
	}
	var resp api.CheckResponse
	brokertest.Must(t, w.agent.Call(w.handler, api.PathCheck, api.CheckRequest{Agent: w.agent.Name, Asks: asks}, &resp))
	for _, a := range resp.Answers {
		if got := outcomes(a); got != "allow" {
			t.Errorf("%s", got)
		}
	}
	if g.most > 2 || g.now != 0 {
		t.Errorf("%d uploads were in memory at once, %d are left", g.most, g.now)
	}
}

// Held and given up, again and again, tells reviewers of each: past api.MaxHoldsHour the login waits, and nobody else does.
func TestReviewersAreNotFlooded(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	for i := range api.MaxHoldsHour {
		c, dec := w.hold(s, strconv.Itoa(i))
		_, err := w.claim(s, dec.Approval, c, true)
		brokertest.Must(t, err)
	}
	other := w.Seed(w.agent, w.alice.Child("coder", access.Everything()), "app")
	a := w.check(other.Ask(other.Command(0, access.Write, "public.accounts", "one more")))
	if outcomes(a) != api.RuleTooManyHolds || !strings.Contains(a.Decisions[0].Hint, "within an hour") {
		t.Fatalf("%s: %+v", outcomes(a), a)
	}
	w.hold(w.Seed(w.agent, w.Login("bob", "engineers"), "app"), "x")
	w.Advance(time.Hour)
	w.alice.Edit(func(r *token.Root) { r.RenewedUntil = w.Now().Add(time.Minute) })
	w.hold(s, "an hour later")
	slots, err := w.DB.Get(t.Context(), store.Approvals, store.Key{PK: "holds#" + string(w.alice.Claims.Lineage().Root()), SK: "slots"}, true)
	if err != nil || len(slots.Body) > 1<<10 {
		t.Errorf("%d bytes, %v", len(slots.Body), err)
	}
}
