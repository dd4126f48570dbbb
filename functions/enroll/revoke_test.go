package enroll_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/functions/enroll"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

func (b *bench) revoke(agent access.AgentName, reason string, groups ...string) (api.RevokeAgentResponse, error) {
	var out api.RevokeAgentResponse
	return out, b.administer(api.PathRevokeAgent, api.RevokeAgentRequest{Agent: agent, Reason: reason}, &out, groups, false, false)
}

func ruleOf(err error) string {
	e := (*api.Error)(nil)
	if !errors.As(err, &e) {
		return ""
	}
	return e.Rule
}

func certOf(t *testing.T, r api.EnrollResponse) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(r.Certificate))
	return must(x509.ParseCertificate(block.Bytes))
}

func (b *bench) recertify(cert *x509.Certificate, key *ecdsa.PrivateKey) (out api.EnrollResponse, err error) {
	body := must(json.Marshal(api.RecertifyRequest{CSR: csr(newKey())}))
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodPost, api.PathRecertify, bytes.NewReader(body))
	if err := token.SignAgent(r, body, cert, key, b.now); err != nil {
		b.t.Fatal(err)
	}
	return out, b.do(r, &out)
}

func TestRevokeAgent(t *testing.T) {
	b := newBench(t)
	key, join := newKey(), b.invite()
	cert := certOf(t, must(b.enroll(join, csr(key))))
	unused := b.invite()
	id := access.SessionID(ulid.MustNew(ulid.Timestamp(b.now), bytes.NewReader(make([]byte, 10))).String())
	other := access.SessionID(ulid.MustNew(ulid.Timestamp(b.now), bytes.NewReader(bytes.Repeat([]byte{1}, 10))).String())
	for s, agent := range map[access.SessionID]access.AgentName{id: "edge", other: "core"} {
		w := must(session.Put(session.Record{ID: s, Agent: agent, Status: session.Open, Opened: b.now, Expires: b.now.Add(time.Hour)}, store.Cond{}))
		if err := b.db.Put(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.revoke("edge", "", "engineers"); !errors.Is(err, api.ErrDenied) || ruleOf(err) != api.RuleAdministrators {
		t.Errorf("an engineer: %v", err)
	}
	if _, err := b.revoke("edge", "two\nlines", "administrators"); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("a reason of two lines: %v", err)
	}
	if _, err := b.revoke("Edge!", "", "administrators"); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("no name: %v", err)
	}
	out, err := b.revoke("edge", "the machine is gone", "administrators")
	if err != nil || out.Sessions != 1 || out.Before.Before(b.now) {
		t.Fatalf("%+v %v", out, err)
	}
	for s, want := range map[access.SessionID]session.Status{id: session.Ended, other: session.Open} {
		if rec, _, err := session.Get(t.Context(), b.db, s); err != nil || rec.Status != want {
			t.Errorf("session of %s: %+v %v", rec.Agent, rec, err)
		}
	}
	if all, err := agents.NewRevoked(b.db, func() time.Time { return b.now }).Agents(t.Context()); err != nil || len(all) != 1 || all[0].Agent != "edge" || !all[0].Before.Equal(out.Before) {
		t.Errorf("clients are told %v, %v", all, err)
	}
	// Nothing that was there before helps any more, also a second later.
	for range 2 {
		if _, err := b.recertify(cert, key); !errors.Is(err, api.ErrRevoked) || ruleOf(err) != api.RuleAgentRevoked {
			t.Errorf("a revoked agent renews: %v", err)
		}
		if _, err := b.enroll(join, csr(key)); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("a revoked agent asks again for what it was enrolled with: %v", err)
		}
		if _, err := b.enroll(unused, csr(key)); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("a join token of before: %v", err)
		}
		b.now = b.now.Add(time.Second)
	}
	found := false
	items, _, err := b.db.Since(t.Context(), store.Audit, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		for _, e := range must(audit.Decode(it)) {
			found = found || e.Kind == audit.KindRevoke && e.Agent == "edge" && e.Lineage.Principal == "adam" && e.Note["reason"] == "the machine is gone"
		}
	}
	if !found {
		t.Error("the revocation is not in the evidence")
	}
}

// A fresh join token makes a new key good, at once, also where the clocks of those who revoke and enroll differ.
func TestEnrolAgainAfterRevocation(t *testing.T) {
	for name, skew := range map[string]time.Duration{"at once": 0, "a clock behind": -30 * time.Second, "a clock ahead": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			old := newKey()
			oldCert := certOf(t, must(b.enroll(b.invite(), csr(old))))
			if _, err := b.revoke("edge", "", "administrators"); err != nil {
				t.Fatal(err)
			}
			b.now = b.now.Add(skew)
			key := newKey()
			cert := certOf(t, must(b.enroll(b.invite(), csr(key))))
			if cert.NotBefore.After(b.now) {
				t.Errorf("good only from %s, it is %s", cert.NotBefore, b.now)
			}
			g := agents.NewGuard(b.db, func() time.Time { return b.now })
			if err := g.Check(t.Context(), must(token.ParseAgent(cert))); err != nil {
				t.Errorf("the new key: %v", err)
			}
			if err := g.Check(t.Context(), must(token.ParseAgent(oldCert))); !errors.Is(err, api.ErrRevoked) {
				t.Errorf("the old key: %v", err)
			}
			if _, err := b.recertify(cert, key); err != nil {
				t.Errorf("renewing: %v", err)
			}
		})
	}
}

// raced is a store where somebody revokes the agent between a renewal's look and its write.
type raced struct {
	store.Items
	between func()
}

func (r *raced) Transact(ctx context.Context, a, b store.Write) error {
	if f := r.between; f != nil {
		r.between = nil
		f()
	}
	return r.Items.Transact(ctx, a, b)
}

func TestARenewalDoesNotOutrunARevocation(t *testing.T) {
	b := newBench(t)
	key := newKey()
	cert := certOf(t, must(b.enroll(b.invite(), csr(key))))
	items := &raced{Items: b.db}
	items.between = func() {
		_, err := agents.Revoke(t.Context(), b.db, agents.Revocation{Agent: "edge", By: "adam", Now: b.now}, func(time.Time) (store.Write, error) {
			return store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: "r"}, Body: []byte("[]")}}, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	b.h = must(enroll.New(enroll.Config{Items: items, Verifier: token.NewVerifier(base, 1), CA: b.ca, Base: base, Bundles: bundle{}, Now: func() time.Time { return b.now }}))
	b.now = b.now.Add(3 * time.Second)
	if out, err := b.recertify(cert, key); !errors.Is(err, api.ErrConflict) || strings.Contains(out.Certificate, "BEGIN") {
		t.Errorf("%v", err)
	}
	if _, err := b.recertify(cert, key); !errors.Is(err, api.ErrRevoked) {
		t.Errorf("asked again: %v", err)
	}
}
