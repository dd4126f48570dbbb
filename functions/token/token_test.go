package token_test

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	tokenfn "github.com/sallyport/sallyport/functions/token"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/token"
)

func TestDiscoveryAndKeys(t *testing.T) {
	b := newBench(t)
	p := must(broker.NewPublic(b.url))
	d, err := p.Discovery(t.Context())
	if err != nil || d.OIDC != b.op.URL || d.ClientID != clientID || d.Issuer != b.base || d.Epoch != 1 || !strings.Contains(d.CA, "BEGIN CERTIFICATE") {
		t.Errorf("%+v %v", d, err)
	}
	keys, err := p.Keys(t.Context())
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v %v", keys, err)
	}
	alice := b.login("alice", "engineers")
	if _, err := token.NewVerifier(d.Issuer, 1, keys...).Access(alice.res.AccessToken, b.clock.now()); err != nil {
		t.Error(err)
	}
}

func TestLogin(t *testing.T) {
	b := newBench(t)
	alice := b.login("alice", "engineers")
	if r := alice.res; r.Lineage.Principal != "alice" || r.Lineage.Depth() != 0 || r.ExpiresIn != 300 || r.TokenType != "DPoP" || !r.GrantExpires.Equal(b.clock.now().Add(token.RootMax)) {
		t.Errorf("%+v", r)
	}
	who, err := alice.Whoami(t.Context())
	if err != nil || who.Administrator || who.Lineage.Chain() != "alice" {
		t.Errorf("%+v %v", who, err)
	}
	if es := b.entries(audit.KindLogin); len(es) != 1 || es[0].Lineage.Principal != "alice" {
		t.Errorf("entries %+v", es)
	}
	if roots, err := token.Roots(t.Context(), b.db, b.clock.now(), 10); err != nil || len(roots) != 1 || roots[0].ID != alice.id() {
		t.Errorf("%+v %v", roots, err)
	}
	if who, err := b.login("adam", "administrators").Whoami(t.Context()); err != nil || !who.Administrator {
		t.Errorf("%+v %v", who, err)
	}
}

func TestIDTokenIsUsedOnce(t *testing.T) {
	b := newBench(t)
	raw := b.op.idToken(nil)
	if _, err := b.person().Login(t.Context(), raw, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := b.person().Login(t.Context(), raw, ""); !errors.Is(err, api.ErrConflict) {
		t.Errorf("replayed: %v", err)
	}
	// The other signature of the same payload is the same token.
	i := strings.LastIndex(raw, ".")
	sig := must(base64.RawURLEncoding.DecodeString(raw[i+1:]))
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	other := raw[:i+1] + base64.RawURLEncoding.EncodeToString(append(sig[:32:32], s.FillBytes(make([]byte, 32))...))
	if _, err := b.person().Login(t.Context(), other, ""); !errors.Is(err, api.ErrConflict) {
		t.Errorf("replayed with its other signature: %v", err)
	}
	raw = b.op.idToken(nil)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		p := b.person()
		wg.Go(func() {
			if _, err := p.Login(t.Context(), raw, ""); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 20 logged in with one token", won.Load())
	}
}

func TestIDTokenNonceBindsToTheKey(t *testing.T) {
	b := newBench(t)
	alice, thief := b.person(), b.person()
	salt := token.NewRandom()
	with := func(nonce string) string { return b.op.idToken(map[string]any{"nonce": nonce}) }
	mine := token.LoginNonce(token.Thumbprint(&alice.key.PublicKey), salt)
	for name, login := range map[string]func() error{
		"a thief's key":           func() error { _, err := thief.Login(t.Context(), with(mine), salt); return err },
		"no salt":                 func() error { _, err := alice.Login(t.Context(), with(mine), ""); return err },
		"another salt":            func() error { _, err := alice.Login(t.Context(), with(mine), token.NewRandom()); return err },
		"a nonce of another kind": func() error { _, err := alice.Login(t.Context(), with("n-0S6_WzA2Mj"), ""); return err },
		"a salt and no nonce":     func() error { _, err := alice.Login(t.Context(), b.op.idToken(nil), salt); return err },
	} {
		if err := login(); !errors.Is(err, api.ErrLogin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := alice.Login(t.Context(), with(mine), salt); err != nil {
		t.Error(err)
	}
}

func TestIDTokenForgeries(t *testing.T) {
	b := newBench(t)
	now := b.clock.now()
	id := func(k string, v any) string { return b.op.idToken(map[string]any{k: v}) }
	secret := []byte(strings.Repeat("s", 32))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(b.op.claims(nil)))) + "."
	full := must(must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: b.op.keys["one"]}, nil)).Sign(must(json.Marshal(b.op.claims(nil))))).FullSerialize()
	tests := map[string]string{
		"alg none":               none,
		"HS256":                  signWith(jose.HS256, jose.JSONWebKey{Key: secret, KeyID: "one"}, b.op.claims(nil), nil),
		"RS256 with another key": signWith(jose.RS256, jose.JSONWebKey{Key: must(rsa.GenerateKey(rand.Reader, 2048)), KeyID: "one"}, b.op.claims(nil), nil),
		"another key":            signWith(jose.ES256, jose.JSONWebKey{Key: newKey(), KeyID: "one"}, b.op.claims(nil), nil),
		"its own key":            signWith(jose.ES256, newKey(), b.op.claims(nil), map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &newKey().PublicKey}}),
		"jku":                    b.op.sign(b.op.claims(nil), map[jose.HeaderKey]any{"jku": "http://127.0.0.1:1/"}),
		"typ at+jwt":             b.op.sign(b.op.claims(nil), map[jose.HeaderKey]any{"typ": "at+jwt"}),
		"typ logout+jwt":         b.op.sign(b.op.claims(nil), map[jose.HeaderKey]any{"typ": "logout+jwt"}),
		"crit":                   b.op.sign(b.op.claims(nil), map[jose.HeaderKey]any{"crit": []string{"x"}, "x": "y"}),
		"full serialisation":     full,
		"wrong issuer":           id("iss", "https://evil.example"),
		"wrong audience":         id("aud", "another-client"),
		"no audience":            id("aud", nil),
		"extra audience":         id("aud", []string{clientID, "another-client"}),
		"extra audience and azp": b.op.idToken(map[string]any{"aud": []string{clientID, "x"}, "azp": clientID}),
		"azp of another":         id("azp", "another-client"),
		"expired":                id("exp", now.Add(-time.Second).Unix()),
		"no exp":                 id("exp", nil),
		"not yet valid":          id("nbf", now.Add(time.Hour).Unix()),
		"iat in the future":      id("iat", now.Add(token.Skew+time.Second).Unix()),
		"iat a year old":         b.op.idToken(map[string]any{"iat": now.AddDate(-1, 0, 0).Unix(), "exp": now.AddDate(1, 0, 0).Unix()}),
		"no iat":                 id("iat", nil),
		"empty sub":              id("sub", ""),
		"no sub":                 id("sub", nil),
		"sub with a newline":     id("sub", "alice\nrita"),
		"sub that turns text":    id("sub", "alice\u202ebob"),
		"long sub":               id("sub", strings.Repeat("a", 256)),
		"auth_time in future":    id("auth_time", now.Add(time.Hour).Unix()),
		"auth_time a week old":   id("auth_time", now.AddDate(0, 0, -7).Unix()),
		"too many groups":        id("groups", slices.Repeat([]string{strings.Repeat("g", 100)}, 30)),
		"empty group":            id("groups", []string{""}),
		"groups as an object":    id("groups", map[string]any{"administrators": true}),
		"too long":               strings.Repeat("a", 20<<10),
		"empty":                  "",
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			res, err := b.person().Login(t.Context(), raw, "")
			if !errors.Is(err, api.ErrLogin) {
				t.Errorf("got %+v, %v; want ErrLogin", res.Lineage, err)
			}
		})
	}
	if es := b.entries(audit.KindLogin); len(es) != 0 {
		t.Errorf("%d entries of logins that never were", len(es))
	}
	if _, err := b.person().Login(t.Context(), b.op.idToken(map[string]any{"auth_time": nil, "azp": clientID}), ""); err != nil {
		t.Error(err)
	}
}

func TestUnknownKeysDoNotMakeUsFetchForEver(t *testing.T) {
	b := newBench(t)
	b.login("alice")
	for range 30 {
		raw := signWith(jose.ES256, jose.JSONWebKey{Key: newKey(), KeyID: token.NewRandom()}, b.op.claims(nil), nil)
		if _, err := b.person().Login(t.Context(), raw, ""); err == nil {
			t.Fatal("accepted")
		}
	}
	if n := b.op.fetches.Load(); n > 6 {
		t.Errorf("keys fetched %d times for 30 unknown keys", n)
	}
	// Who holds a known key is not kept out by it, and a rotation is noticed a little later.
	b.login("alice")
	b.op.mu.Lock()
	b.op.keys["two"] = newKey()
	second := b.op.keys["two"]
	b.op.mu.Unlock()
	raw := signWith(jose.ES256, jose.JSONWebKey{Key: second, KeyID: "two"}, b.op.claims(nil), nil)
	if _, err := b.person().Login(t.Context(), raw, ""); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("while limited: %v", err)
	}
	b.clock.add(10 * time.Second)
	if _, err := b.person().Login(t.Context(), raw, ""); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

func TestAWithdrawnKeyIsRefusedAfterAWhile(t *testing.T) {
	b := newBench(t)
	b.login("alice")
	old := b.op.keys["one"]
	b.op.mu.Lock()
	b.op.keys = map[string]any{"two": newKey()}
	b.op.mu.Unlock()
	b.clock.add(16 * time.Minute)
	raw := signWith(jose.ES256, jose.JSONWebKey{Key: old, KeyID: "one"}, b.op.claims(nil), nil)
	if _, err := b.person().Login(t.Context(), raw, ""); !errors.Is(err, api.ErrLogin) {
		t.Errorf("got %v", err)
	}
}

func TestAProviderThatIsDown(t *testing.T) {
	b := newBench(t)
	raw := b.op.idToken(nil)
	b.op.Close()
	if _, err := b.person().Login(t.Context(), raw, ""); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestDelegation(t *testing.T) {
	b := newBench(t)
	alice := b.login("alice", "engineers")
	coder := alice.child("coder", "read,write:app/public.*")
	tester := coder.child("tester", "read:app/public.orders")
	l := tester.res.Lineage
	if l.Chain() != "alice → coder → tester" || l.Assurance != access.Exchanged || l.Principal != "alice" || l.Root() != alice.id() {
		t.Errorf("%+v", l)
	}
	if err := tester.alive(); err != nil {
		t.Error(err)
	}
	if tester.res.GrantExpires.After(alice.res.GrantExpires) {
		t.Error("the grandchild lives longer")
	}
	es := b.entries(audit.KindDelegate)
	if len(es) != 2 || es[1].Lineage.Chain() != l.Chain() || es[1].Note["capability"] != "read:app/public.orders" {
		t.Errorf("%+v", es)
	}
	recs, err := token.Actors(t.Context(), b.db, alice.id(), 10)
	i := slices.IndexFunc(recs, func(r token.ActorRecord) bool { return r.Node.ID == tester.id() })
	if err != nil || len(recs) != 2 || i < 0 || recs[i].Parent != coder.id() || len(recs[i].Path) != 3 {
		t.Errorf("%+v %v", recs, err)
	}
	// A token that was stolen is worth nothing with another key.
	thief := b.person()
	thief.res = tester.res
	if err := thief.alive(); !errors.Is(err, api.ErrLogin) {
		t.Errorf("stolen token: %v", err)
	}
}

func TestDelegationRefuses(t *testing.T) {
	b := newBench(t)
	coder, err := b.login("alice").delegate(func(d *broker.Delegation) { d.Life = time.Hour })
	if err != nil {
		t.Fatal(err)
	}
	now := b.clock.now()
	used := must(token.SignKeyProof(newKey(), b.base, now))
	if _, err := coder.delegate(func(d *broker.Delegation) { d.KeyProof = used }); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*broker.Delegation)
		want   error
	}{
		"another effect":           {func(d *broker.Delegation) { d.Capability = grantlets("read,define:app/public.*") }, api.ErrDenied},
		"another target":           {func(d *broker.Delegation) { d.Capability = grantlets("read:prod/public.x") }, api.ErrDenied},
		"every target":             {func(d *broker.Delegation) { d.Capability = grantlets("read:*/public.x") }, api.ErrDenied},
		"wider resource":           {func(d *broker.Delegation) { d.Capability = grantlets("read:app") }, api.ErrDenied},
		"wider pattern":            {func(d *broker.Delegation) { d.Capability = grantlets("read:app/pub*") }, api.ErrDenied},
		"one wider among narrower": {func(d *broker.Delegation) { d.Capability = grantlets("read:app/public.a", "grant:app/public.a") }, api.ErrDenied},
		"no capability":            {func(d *broker.Delegation) { d.Capability = nil }, api.ErrBadRequest},
		"too many":                 {func(d *broker.Delegation) { d.Capability = slices.Repeat(grantlets("read:app/public.a"), 33) }, api.ErrBadRequest},
		"longer life":              {func(d *broker.Delegation) { d.Life = time.Hour + time.Second }, api.ErrDenied},
		"negative life":            {func(d *broker.Delegation) { d.Life = -time.Hour }, api.ErrBadRequest},
		"bad name":                 {func(d *broker.Delegation) { d.Name = "Coder!" }, api.ErrBadRequest},
		"no purpose":               {func(d *broker.Delegation) { d.Purpose = "" }, api.ErrBadRequest},
		"long purpose":             {func(d *broker.Delegation) { d.Purpose = strings.Repeat("x", 201) }, api.ErrBadRequest},
		"purpose of two lines":     {func(d *broker.Delegation) { d.Purpose = "a\nb" }, api.ErrBadRequest},
		"no key":                   {func(d *broker.Delegation) { d.KeyProof = "" }, api.ErrDenied},
		"the parent's key":         {func(d *broker.Delegation) { d.KeyProof = must(token.SignKeyProof(coder.key, b.base, now)) }, api.ErrDenied},
		"key proof used before":    {func(d *broker.Delegation) { d.KeyProof = used }, api.ErrConflict},
		"key proof for another": {func(d *broker.Delegation) {
			d.KeyProof = must(token.SignKeyProof(newKey(), "https://evil.example", now))
		}, api.ErrDenied},
		"old key proof": {func(d *broker.Delegation) {
			d.KeyProof = must(token.SignKeyProof(newKey(), b.base, now.Add(-time.Hour)))
		}, api.ErrDenied},
	}
	before := len(b.entries(audit.KindDelegate))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if c, err := coder.delegate(tt.change); !errors.Is(err, tt.want) {
				t.Errorf("got %+v, %v; want %v", c.res.Capability, err, tt.want)
			}
		})
	}
	if n := len(b.entries(audit.KindDelegate)); n != before {
		t.Errorf("%d entries of children that never were", n-before)
	}
}

func TestDepthIsLimited(t *testing.T) {
	b := newBench(t)
	p := b.login("alice")
	for i := range token.MaxDepth {
		p = p.child(fmt.Sprintf("a%d", i), "read:app/public.orders")
	}
	if p.res.Lineage.Depth() != token.MaxDepth {
		t.Errorf("depth %d", p.res.Lineage.Depth())
	}
	if err := p.alive(); err != nil {
		t.Error(err)
	}
	if _, err := p.delegate(func(d *broker.Delegation) { d.Capability = grantlets("read:app/public.orders") }); !errors.Is(err, api.ErrDenied) {
		t.Errorf("one deeper: %v", err)
	}
}

func TestRenew(t *testing.T) {
	b := newBench(t)
	alice := b.login("alice")
	coder := alice.child("coder", "read:app")
	b.clock.add(time.Hour) // the tokens have expired long ago
	if err := coder.alive(); !errors.Is(err, api.ErrLogin) {
		t.Errorf("expired token: %v", err)
	}
	res, err := coder.Renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.Lineage.Actor().ID != coder.id() || res.Capability[0].String() != "read:app/*" || !res.GrantExpires.Equal(coder.res.GrantExpires) {
		t.Errorf("another node: %+v", res)
	}
	thief := b.person()
	thief.res = coder.res
	if _, err := thief.Renew(t.Context()); !errors.Is(err, api.ErrLogin) {
		t.Errorf("renewed with another key: %v", err)
	}
	coder.res = res
	if err := coder.alive(); err != nil {
		t.Error(err)
	}
	root, _, err := token.GetRoot(t.Context(), b.db, alice.id(), true)
	if err != nil || !root.RenewedUntil.Equal(b.clock.now().Add(token.RootIdle)) {
		t.Errorf("lease not extended: %s, %v", root.RenewedUntil, err)
	}
	for range 12 {
		b.clock.add(time.Hour)
		if res, err = coder.Renew(t.Context()); err != nil {
			break
		}
		coder.res = res
	}
	if !errors.Is(err, api.ErrLogin) {
		t.Errorf("13 hours after login: %v", err)
	}
}

func TestAnIdleLoginEnds(t *testing.T) {
	b := newBench(t)
	alice := b.login("alice")
	b.clock.add(token.RootIdle)
	if _, err := alice.Renew(t.Context()); !errors.Is(err, api.ErrLogin) {
		t.Errorf("got %v", err)
	}
}

func TestTicket(t *testing.T) {
	b := newBench(t)
	coder := b.login("alice").child("coder", "read:app")
	endpoint := token.NewRandom()
	res, err := coder.Ticket(t.Context(), api.TicketRequest{Target: "app", Endpoint: endpoint})
	if err != nil || res.Protocol != "postgres" || res.Database != "appdb" || len(res.Relays) != 1 {
		t.Fatalf("%+v %v", res, err)
	}
	if tk, err := b.v.Ticket(res.Ticket, b.clock.now()); err != nil || tk.Target != "app" || tk.Endpoint != endpoint {
		t.Errorf("%+v %v", tk, err)
	}
	if _, err := token.CheckNonce(b.state, res.Nonce, token.Thumbprint(&coder.key.PublicKey), "app", endpoint, b.clock.now()); err != nil {
		t.Error(err)
	}
	other := b.login("alice").child("coder", "read:prod")
	for name, tt := range map[string]struct {
		p    *person
		r    api.TicketRequest
		want error
	}{
		"outside the capability": {other, api.TicketRequest{Target: "app", Endpoint: endpoint}, api.ErrDenied},
		"no such target":         {other, api.TicketRequest{Target: "prod", Endpoint: endpoint}, api.ErrNotFound},
		"bad target":             {coder, api.TicketRequest{Target: "APP", Endpoint: endpoint}, api.ErrBadRequest},
		"bad endpoint":           {coder, api.TicketRequest{Target: "app", Endpoint: "x"}, api.ErrBadRequest},
		"before login":           {b.person(), api.TicketRequest{Target: "app", Endpoint: endpoint}, api.ErrLogin},
	} {
		if _, err := tt.p.Ticket(t.Context(), tt.r); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

func TestRevokeAnAncestor(t *testing.T) {
	b := newBench(t)
	alice := b.login("alice")
	coder := alice.child("coder", "read:app")
	tester := coder.child("tester", "read:app")
	other := alice.child("other", "read:app")
	if err := alice.Revoke(t.Context(), api.RevokeRequest{Root: alice.id(), Actor: coder.id(), Reason: "done"}); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*person{"itself": coder, "its child": tester} {
		if err := p.alive(); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Renew(t.Context()); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%s renews: %v", name, err)
		}
		if _, err := p.Ticket(t.Context(), api.TicketRequest{Target: "app", Endpoint: token.NewRandom()}); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%s gets a ticket: %v", name, err)
		}
		if _, err := p.delegate(func(d *broker.Delegation) { d.Capability = grantlets("read:app") }); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%s delegates: %v", name, err)
		}
	}
	for name, p := range map[string]*person{"the principal": alice, "a sibling": other} {
		if err := p.alive(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if es := b.entries(audit.KindRevoke); len(es) != 1 || es[0].Note["actor"] != string(coder.id()) || es[0].Lineage.Principal != "alice" {
		t.Errorf("%+v", es)
	}
}

func TestWhoMayRevoke(t *testing.T) {
	b := newBench(t)
	alice, rita, adam := b.login("alice"), b.login("rita"), b.login("adam", "administrators")
	coder, helper := alice.child("coder", "read:app"), adam.child("helper", "read:app")
	tester := coder.child("tester", "read:app")
	sibling := alice.child("sibling", "read:app")
	revoke := func(p *person, root, actor access.ActorID) error {
		return p.Revoke(t.Context(), api.RevokeRequest{Root: root, Actor: actor})
	}
	for name, err := range map[string]error{
		"an actor itself":                     revoke(coder, alice.id(), coder.id()),
		"an actor its principal":              revoke(coder, alice.id(), alice.id()),
		"an actor its parent":                 revoke(tester, alice.id(), coder.id()),
		"an actor its sibling":                revoke(coder, alice.id(), sibling.id()),
		"another principal":                   revoke(rita, alice.id(), coder.id()),
		"another principal's login":           revoke(rita, alice.id(), alice.id()),
		"an administrator's actor":            revoke(helper, alice.id(), coder.id()),
		"a stranger asks for what is not":     revoke(rita, alice.id(), rita.id()),
		"an actor below, under another login": revoke(rita, rita.id(), coder.id()),
	} {
		if !errors.Is(err, api.ErrDenied) && !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, p := range []*person{alice, coder, tester, sibling} {
		if err := p.alive(); err != nil {
			t.Fatalf("%s: %v", p.res.Lineage.Chain(), err)
		}
	}
	if err := revoke(coder, alice.id(), tester.id()); err != nil {
		t.Errorf("a descendant: %v", err)
	}
	if err := revoke(adam, alice.id(), alice.id()); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	for _, p := range []*person{alice, coder, tester, sibling} {
		if err := p.alive(); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%s: %v", p.res.Lineage.Chain(), err)
		}
	}
	if err := rita.alive(); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	if err := revoke(adam, "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAV"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("no such login: %v", err)
	}
}

func TestManyRevokeAtOnce(t *testing.T) {
	b := newBench(t)
	alice := b.login("alice")
	var wg sync.WaitGroup
	children := make([]*person, 40) // more than a loop without patience gets through; fewer than would end the whole login
	for i := range children {
		children[i] = alice.child("coder", "read:app")
	}
	for _, c := range children {
		wg.Go(func() {
			if err := alice.Revoke(t.Context(), api.RevokeRequest{Root: alice.id(), Actor: c.id()}); err != nil {
				t.Errorf("revoke: %v", err)
			}
		})
	}
	wg.Wait()
	for _, c := range children {
		if err := c.alive(); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%v", err)
		}
	}
}

func TestForms(t *testing.T) {
	b := newBench(t)
	if err := b.person().Do(t.Context(), http.MethodPost, api.PathToken, nil, nil); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("no form: %v", err)
	}
	h := handler{b}
	idt := func() string { return b.op.idToken(nil) }
	login := func() url.Values {
		return url.Values{api.FieldGrant: {api.GrantExchange}, api.FieldSubject: {idt()}, api.FieldSubjectType: {api.TypeIDToken}}
	}
	for name, tt := range map[string]struct {
		change func(url.Values)
		want   int
	}{
		"fine":                   {func(url.Values) {}, 200},
		"unknown field":          {func(v url.Values) { v.Set("scope", "all") }, 400},
		"a field twice":          {func(v url.Values) { v.Add(api.FieldSubject, "x") }, 400},
		"a delegation's field":   {func(v url.Values) { v.Set(api.FieldName, "coder") }, 400},
		"another grant":          {func(v url.Values) { v.Set(api.FieldGrant, "password") }, 400},
		"another subject type":   {func(v url.Values) { v.Set(api.FieldSubjectType, "urn:ietf:params:oauth:token-type:saml2") }, 400},
		"no subject":             {func(v url.Values) { v.Del(api.FieldSubject) }, 401},
		"delegation, no token":   {func(v url.Values) { v.Set(api.FieldSubjectType, api.TypeAccessToken) }, 401},
		"too large":              {func(v url.Values) { v.Set(api.FieldSubject, strings.Repeat("x", 70<<10)) }, 413},
		"capability in a login":  {func(v url.Values) { v.Set(api.FieldCapability, "read:app") }, 400},
		"thirty-three grantlets": {func(v url.Values) { v[api.FieldCapability] = slices.Repeat([]string{"read:app"}, 33) }, 400},
	} {
		v := login()
		tt.change(v)
		if got := h.post(v.Encode(), "application/x-www-form-urlencoded", ""); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := h.post(login().Encode(), "application/json", ""); got != 400 {
		t.Errorf("another content type: %d", got)
	}
	if got := h.post(login().Encode(), "application/x-www-form-urlencoded", "?grant_type=x"); got != 400 {
		t.Errorf("a query: %d", got)
	}
	if got := h.post("%zz", "application/x-www-form-urlencoded", ""); got != 400 {
		t.Errorf("not a form: %d", got)
	}
}

func TestAProofIsGoodForOneLogin(t *testing.T) {
	b := newBench(t)
	proof := must(token.SignDPoP(newKey(), http.MethodPost, b.base+api.PathToken, "", b.clock.now()))
	for _, want := range []int{200, 409} {
		v := url.Values{api.FieldGrant: {api.GrantExchange}, api.FieldSubject: {b.op.idToken(nil)}, api.FieldSubjectType: {api.TypeIDToken}}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, api.PathToken, strings.NewReader(v.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("DPoP", proof)
		w := httptest.NewRecorder()
		b.h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("status %d, want %d", w.Code, want)
		}
	}
}

func TestTheSubjectIsTheCaller(t *testing.T) {
	b := newBench(t)
	alice, rita := b.login("alice"), b.login("rita")
	v := url.Values{api.FieldGrant: {api.GrantExchange}, api.FieldSubject: {alice.res.AccessToken}, api.FieldSubjectType: {api.TypeAccessToken}, api.FieldName: {"coder"},
		api.FieldPurpose: {"p"}, api.FieldCapability: {"read:app"}, api.FieldActorType: {api.TypeKeyProof}, api.FieldActor: {must(token.SignKeyProof(newKey(), b.base, b.clock.now()))}}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, api.PathToken, strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "DPoP "+rita.res.AccessToken)
	r.Header.Set("DPoP", must(token.SignDPoP(rita.key, http.MethodPost, b.base+api.PathToken, rita.res.AccessToken, b.clock.now())))
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest {
		t.Errorf("rita delegates alice's token: %d %s", w.Code, w.Body)
	}
}

func TestNewRefuses(t *testing.T) {
	b := newBench(t)
	whole := func() tokenfn.Config {
		return tokenfn.Config{Items: b.db, Issuer: b.iss, Verifier: b.v, CA: b.ca, StateKey: b.state, OIDC: tokenfn.OIDC{Issuer: "https://op.example", ClientID: "x"},
			Bundles: bundle{}, Base: b.base}
	}
	if _, err := tokenfn.New(whole()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tokenfn.Config){
		"no store":         func(c *tokenfn.Config) { c.Items = nil },
		"no verifier":      func(c *tokenfn.Config) { c.Verifier = nil },
		"short state key":  func(c *tokenfn.Config) { c.StateKey = c.StateKey[:31] },
		"no base":          func(c *tokenfn.Config) { c.Base = "" },
		"plain issuer":     func(c *tokenfn.Config) { c.OIDC.Issuer = "http://op.example" },
		"no client id":     func(c *tokenfn.Config) { c.OIDC.ClientID = "" },
		"no issuer at all": func(c *tokenfn.Config) { c.OIDC.Issuer = "" },
	} {
		c := whole()
		change(&c)
		if _, err := tokenfn.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
