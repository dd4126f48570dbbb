package decide

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

func TestLiveIsBounded(t *testing.T) {
	l := newLive(3)
	ctx := context.Background()
	st := func(n int) token.State { return token.State{Session: access.SessionID(strconv.Itoa(n))} }
	held, err := l.enter(ctx, st(0), "raw 0")
	if err != nil {
		t.Fatal(err)
	}
	held.last = 7
	for n := 1; n < 100; n++ {
		s, err := l.enter(ctx, st(n), "raw "+strconv.Itoa(n))
		if err != nil {
			t.Fatal(err)
		}
		l.leave(s)
	}
	if len(l.seats) != 3 || l.order.Len() != 3 {
		t.Errorf("%d sessions are remembered", len(l.seats))
	}
	// The one that is held is not forgotten, and presents its state again.
	if _, ok := l.state("0", "raw 0"); !ok {
		t.Error("a held session was forgotten")
	}
	if _, ok := l.state("0", "raw 1"); ok {
		t.Error("other bytes were taken for the same state")
	}
	if _, ok := l.state("50", ""); ok {
		t.Error("no bytes were taken for a state")
	}
	l.leave(held)
	if s, err := l.enter(ctx, st(0), "raw 0"); err != nil || s.last != 7 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestLiveTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLive(3)
		first, err := l.enter(context.Background(), token.State{Session: "a"}, "raw")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		gaveUp, second := make(chan error), make(chan *seat)
		go func() { _, err := l.enter(ctx, token.State{Session: "a"}, "raw"); gaveUp <- err }()
		go func() {
			s, err := l.enter(context.Background(), token.State{Session: "a"}, "raw")
			if err != nil {
				t.Error(err)
			}
			second <- s
		}()
		synctest.Wait()
		select {
		case <-second:
			t.Fatal("two at once")
		default:
		}
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("gave up with %v", err)
		}
		l.leave(first)
		s := <-second
		l.leave(s)
		if s != first || s.users != 0 {
			t.Errorf("another seat, or %d users", s.users)
		}
	})
}

func TestClasses(t *testing.T) {
	email := []access.Class{{Name: "email", Columns: []string{"*.email"}, Mask: "email"}}
	other := []access.Class{{Name: "email", Columns: []string{"*.mail"}, Mask: "email"}}
	a, b, c := &policy.Bundle{Address: "a", Classes: email}, &policy.Bundle{Address: "b", Classes: email}, &policy.Bundle{Address: "c", Classes: other}
	var seen classes
	for i, tt := range []struct {
		opened string
		active *policy.Bundle
		want   bool
	}{{"a", a, true}, {"a", b, true}, {"b", b, true}, {"a", c, false}, {"b", c, false}, {"c", c, true}, {"c", a, false}, {"b", a, true}, {"never seen", a, false}, {"", a, false}} {
		if got := seen.same(tt.opened, tt.active); got != tt.want {
			t.Errorf("%d: opened under %q, active %q: %v", i, tt.opened, tt.active.Address, got)
		}
	}
	if seen.same("c", &policy.Bundle{Address: "d", Classes: []access.Class{{Name: "email", Columns: []string{"*.mail"}, Detector: "mail", Mask: "email"}}}) {
		t.Error("a detector makes no difference")
	}
	for n := range 100 {
		seen.same("a", &policy.Bundle{Address: strconv.Itoa(n), Classes: email})
	}
	if len(seen.seen) != maxSeen {
		t.Errorf("%d bundles are remembered", len(seen.seen))
	}
	if seen.same("a", a) != true || seen.same("50", a) {
		t.Error("a forgotten bundle is taken for the same")
	}
}
