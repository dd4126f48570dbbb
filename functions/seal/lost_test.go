package seal_test

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
)

// open stores a session of the past that nobody closed, with n commands.
func (w *world) open(t *testing.T, opened time.Time, n int) access.SessionID {
	t.Helper()
	sid := access.SessionID(ulid.MustNew(ulid.Timestamp(opened), ulid.DefaultEntropy()).String())
	rec, err := session.Put(session.Record{ID: sid, Target: "app", Opened: opened, Expires: opened.Add(time.Hour), Status: session.Open}, store.Cond{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.db.Put(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: opened, Session: sid})
	prev, key := audit.FirstLink(sid), make([]byte, 32)
	for seq := uint64(1); seq <= uint64(n); seq++ {
		at := opened.Add(time.Duration(seq) * time.Minute)
		c := access.Command{ID: access.CommandID(ulid.MustNew(ulid.Timestamp(at), ulid.DefaultEntropy()).String()), Text: "select 1"}
		digest := access.Digest(key, "app", c)
		body, err := audit.CommandOf(c, digest, key)
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Time: at, Session: sid, Seq: seq, Prev: prev, Command: body,
			Decision: &access.Decision{Outcome: access.Deny}})
		prev = audit.Link(prev, c.ID, seq, digest)
	}
	return sid
}

func TestSessionsOfAgentsThatNeverCameBackAreClosed(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC()
	old, fresh := w.open(t, now.Add(-3*time.Hour), 3), w.open(t, now.Add(-50*time.Minute), 2)
	s, err := seal.New(w.c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} { // the second sweep finds nothing left
		if n, err := s.CloseLost(t.Context()); err != nil || n != want {
			t.Fatalf("closed %d, %v; want %d", n, err, want)
		}
	}
	r, _, err := session.Get(t.Context(), w.db, old)
	if err != nil || r.Status != session.Lost || r.LastSeq != 3 || r.Closed.IsZero() {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, _, err = session.Get(t.Context(), w.db, fresh); err != nil || r.Status != session.Open {
		t.Fatalf("%+v, %v", r, err)
	}
	w.seal(t)
	wantOK(t, w.verify(t, nil))
}

// Whoever opens many sessions, in order, keeps no other one from its end.
func TestLostSessionsAreFoundBehindManyOthers(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC()
	lost := w.open(t, now.Add(-5*time.Hour), 1)
	var g errgroup.Group
	g.SetLimit(64)
	for i := range 1300 {
		g.Go(func() error {
			opened := now.Add(-4*time.Hour + time.Duration(i)*time.Millisecond)
			sid := access.SessionID(ulid.MustNew(ulid.Timestamp(opened), rand.Reader).String())
			rec, err := session.Put(session.Record{ID: sid, Target: "app", Opened: opened, Expires: opened.Add(time.Hour), Status: session.Closed, Closed: opened.Add(time.Minute)}, store.Cond{})
			if err != nil {
				return err
			}
			return w.db.Put(t.Context(), rec)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	late := w.open(t, now.Add(-3*time.Hour), 1)
	s, err := seal.New(w.c)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 1, 0} { // a batch, the rest, and from the beginning
		if n, err := s.CloseLost(t.Context()); err != nil || n != want {
			t.Fatalf("sweep %d closed %d, %v", i, n, err)
		}
	}
	for _, id := range []access.SessionID{lost, late} {
		if r, _, err := session.Get(t.Context(), w.db, id); err != nil || r.Status != session.Lost {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// One whose evidence cannot be read is told of, and keeps no other one from its end.
func TestOneThatCannotBeClosedKeepsNoOther(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC()
	bad, good := w.open(t, now.Add(-5*time.Hour), 0), w.open(t, now.Add(-4*time.Hour), 2)
	item := store.Item{Key: store.Key{PK: audit.MinuteOf(now.Add(-5 * time.Hour)), SK: string(bad) + "#0000000000000001#c"}, Body: []byte(`"x"`)}
	if err := w.db.Put(t.Context(), store.Write{Table: store.Audit, Item: item}); err != nil {
		t.Fatal(err)
	}
	s, err := seal.New(w.c)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.CloseLost(t.Context()); n != 1 || err == nil || !strings.Contains(err.Error(), string(bad)) {
		t.Errorf("%d, %v", n, err)
	}
	if r, _, err := session.Get(t.Context(), w.db, good); err != nil || r.Status != session.Lost {
		t.Errorf("%+v, %v", r, err)
	}
}
