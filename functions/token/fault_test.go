package token_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
)

// wishes are all that changes or signs something.
var wishes = map[string]func(b *bench, alice, coder *person) error{
	"login": func(b *bench, _, _ *person) error {
		_, err := b.person().Login(b.t.Context(), b.op.idToken(nil), "")
		return err
	},
	"delegate": func(_ *bench, alice, _ *person) error { _, err := alice.delegate(nil); return err },
	"renew": func(b *bench, _, coder *person) error {
		_, err := coder.Renew(b.t.Context())
		return err
	},
	"ticket": func(b *bench, _, coder *person) error {
		_, err := coder.Ticket(b.t.Context(), api.TicketRequest{Target: "app", Endpoint: token.NewRandom()})
		return err
	},
	"revoke": func(b *bench, alice, coder *person) error {
		return alice.Revoke(b.t.Context(), api.RevokeRequest{Root: alice.id(), Actor: coder.id()})
	},
}

// Each call to the store fails once, and once after it was applied. The caller is told that there is no answer; what is stored and what
// the evidence says never disagree; and the same wish, asked again, is granted.
func TestFaultsOfTheStore(t *testing.T) {
	calls := map[string]int{"get": 3, "put": 3, "transact": 1}
	for wish, ask := range wishes {
		hit := 0
		for op, most := range calls {
			for n := 1; n <= most; n++ {
				for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
					t.Run(fmt.Sprintf("%s/%s %d/%v", wish, op, n, fault), func(t *testing.T) {
						b := newBench(t)
						alice := b.login("alice")
						coder := alice.child("coder", "read:app")
						b.fault.Set(storetest.Nth(op, n, fault))
						err := ask(b, alice, coder)
						b.fault.Set(nil)
						if err != nil {
							hit++
							if !errors.Is(err, api.ErrUnavailable) {
								t.Errorf("got %v, want ErrUnavailable", err)
							}
						}
						agree(t, b, alice.id())
						if err := ask(b, alice, coder); err != nil {
							t.Errorf("asked again: %v", err)
						}
						agree(t, b, alice.id())
						if wish == "revoke" && !errors.Is(coder.alive(), api.ErrRevoked) {
							t.Error("still alive")
						}
					})
				}
			}
		}
		if hit == 0 {
			t.Errorf("%s: no fault was ever met", wish)
		}
	}
}

// A key that does not sign is told as a store that does not answer is, by a rule of its own and without its name; nothing was begun, and the
// same wish is granted later.
func TestFaultsOfTheKey(t *testing.T) {
	for wish, ask := range wishes {
		t.Run(wish, func(t *testing.T) {
			b := newBench(t)
			alice := b.login("alice")
			coder := alice.child("coder", "read:app")
			b.key.away.Store(true)
			err := ask(b, alice, coder)
			b.key.away.Store(false)
			e := (*api.Error)(nil)
			if wish == "revoke" { // signs nothing
				if err != nil {
					t.Error(err)
				}
			} else if !errors.As(err, &e) || e.Code != "unavailable" || e.Rule != api.RuleSigningKey || e.Hint != "try again" || strings.Contains(e.Message, "kms") {
				t.Errorf("got %+v", err)
			}
			agree(t, b, alice.id())
			if err := ask(b, alice, coder); err != nil {
				t.Errorf("asked again: %v", err)
			}
			agree(t, b, alice.id())
		})
	}
}

// agree compares what is stored with what the evidence tells.
func agree(t *testing.T, b *bench, root access.ActorID) {
	t.Helper()
	roots, err := token.Roots(t.Context(), b.db, b.clock.now(), 100)
	if n := len(b.entries(audit.KindLogin)); err != nil || n != len(roots) {
		t.Errorf("%d logins, %d entries, %v", len(roots), n, err)
	}
	actors, err := token.Actors(t.Context(), b.db, root, 100)
	if n := len(b.entries(audit.KindDelegate)); err != nil || n != len(actors) {
		t.Errorf("%d actors, %d entries, %v", len(actors), n, err)
	}
	r, _, err := token.GetRoot(t.Context(), b.db, root, true)
	if n := len(b.entries(audit.KindRevoke)); err != nil || (n > 0) != (len(r.Revoked) > 0) {
		t.Errorf("%d revoked, %d entries, %v", len(r.Revoked), n, err)
	}
}
