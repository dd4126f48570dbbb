package enroll_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/enroll"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

const base = "https://broker.example"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

type fileKey struct{ *ecdsa.PrivateKey }

func (k fileKey) Public() *ecdsa.PublicKey { return &k.PublicKey }

func (k fileKey) Sign(_ context.Context, digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest)
}

type bundle struct{ *policy.Bundle }

func (b bundle) Active(context.Context) (*policy.Bundle, error) { return b.Bundle, nil }

type bench struct {
	t   *testing.T
	now time.Time
	db  *sqlite.DB
	ca  *token.CA
	iss *token.Issuer
	h   http.Handler
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Now().UTC().Truncate(time.Second)}
	b.db = must(sqlite.Open(filepath.Join(t.TempDir(), "store.db")))
	t.Cleanup(func() { _ = b.db.Close() })
	b.ca = must(token.LoadCA(t.Context(), b.db, fileKey{newKey()}, b.now))
	key := fileKey{newKey()}
	b.iss = token.NewIssuer(base, key, 1)
	b.h = must(enroll.New(enroll.Config{
		Items: b.db, Verifier: token.NewVerifier(base, 1, key.Public()), CA: b.ca, Base: base, Relays: []string{"relay:1"}, Now: func() time.Time { return b.now },
		Bundles: bundle{&policy.Bundle{Targets: []policy.Target{{Name: "app"}, {Name: "db"}}, Roles: policy.Roles{Administrators: []string{"administrators"}}}},
	}))
	return b
}

func (b *bench) do(r *http.Request, out any) error {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		return json.Unmarshal(w.Body.Bytes(), out)
	}
	e := new(api.Error)
	if err := json.Unmarshal(w.Body.Bytes(), e); err != nil {
		return fmt.Errorf("status %d: %s", w.Code, w.Body)
	}
	return e
}

func csr(key any) string {
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (b *bench) enroll(join, csr string) (api.EnrollResponse, error) {
	var out api.EnrollResponse
	body := must(json.Marshal(api.EnrollRequest{JoinToken: join, CSR: csr}))
	return out, b.do(httptest.NewRequestWithContext(b.t.Context(), http.MethodPost, api.PathEnroll, bytes.NewReader(body)), &out)
}

func (b *bench) invite() string {
	b.t.Helper()
	return must(enroll.NewJoinToken(b.t.Context(), b.db, "edge", []access.TargetName{"app"}, b.now)).JoinToken
}

// join asks for a join token as a principal of these groups, or as a child of one.
func (b *bench) join(r api.JoinRequest, groups []string, child bool, revoked bool) (api.JoinResponse, error) {
	var out api.JoinResponse
	return out, b.administer(api.PathJoin, r, &out, groups, child, revoked)
}

func (b *bench) administer(path string, in, out any, groups []string, child bool, revoked bool) error {
	b.t.Helper()
	key := newKey()
	id := func() access.ActorID { return access.ActorID(must(token.NewID(b.now))) }
	root := token.Root{ID: id(), Principal: "adam", Groups: groups, Created: b.now, RenewedUntil: b.now.Add(time.Hour), Suspended: revoked}
	if err := b.db.Put(b.t.Context(), must(root.Put(store.Cond{}))); err != nil {
		b.t.Fatal(err)
	}
	c := token.Claims{ID: string(id()), Principal: "adam", Groups: groups, Path: []access.Node{{ID: root.ID, Name: "adam"}}, Capability: access.Everything(),
		Thumbprint: token.Thumbprint(&key.PublicKey), Issued: b.now, Expires: b.now.Add(time.Minute), GrantExpires: b.now.Add(time.Hour)}
	if child {
		c.Path = append(c.Path, access.Node{ID: id(), Name: "helper"})
	}
	raw := must(b.iss.Access(b.t.Context(), c))
	req := httptest.NewRequestWithContext(b.t.Context(), http.MethodPost, path, bytes.NewReader(must(json.Marshal(in))))
	req.Header.Set("Authorization", "DPoP "+raw)
	req.Header.Set("DPoP", must(token.SignDPoP(key, "POST", base+path, raw, b.now)))
	return b.do(req, out)
}

func TestJoinAndEnroll(t *testing.T) {
	b := newBench(t)
	j, err := b.join(api.JoinRequest{Agent: "edge", Targets: []access.TargetName{"app", "db"}}, []string{"administrators"}, false, false)
	if err != nil || !j.Expires.Equal(b.now.Add(enroll.JoinLife)) {
		t.Fatalf("%+v %v", j, err)
	}
	key := newKey()
	res, err := b.enroll(j.JoinToken, csr(key))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(res.Certificate))
	a, err := token.ParseAgent(must(x509.ParseCertificate(block.Bytes)))
	if err != nil || a.Name != "edge" || !a.Serves("app") || !a.Serves("db") || a.Thumbprint != token.Thumbprint(&key.PublicKey) || res.CA != string(b.ca.PEM()) {
		t.Errorf("%+v %v", a, err)
	}
	var entries []audit.Entry
	items, _, err := b.db.Since(t.Context(), store.Audit, "", 10)
	for _, it := range items {
		entries = append(entries, must(audit.Decode(it))...)
	}
	if err != nil || len(entries) != 1 || entries[0].Kind != audit.KindEnroll || entries[0].Agent != "edge" || entries[0].Note["targets"] != "app db" {
		t.Errorf("%+v %v", entries, err)
	}
}

func TestJoinIsForAdministratorsInPerson(t *testing.T) {
	b := newBench(t)
	fine := api.JoinRequest{Agent: "edge", Targets: []access.TargetName{"app"}}
	admin := []string{"administrators"}
	for name, tt := range map[string]struct {
		r       api.JoinRequest
		groups  []string
		child   bool
		revoked bool
		want    error
	}{
		"an engineer":              {fine, []string{"engineers"}, false, false, api.ErrDenied},
		"an administrator's actor": {fine, admin, true, false, api.ErrDenied},
		"a revoked administrator":  {fine, admin, false, true, api.ErrRevoked},
		"no such target":           {api.JoinRequest{Agent: "edge", Targets: []access.TargetName{"prod"}}, admin, false, false, api.ErrNotFound},
		"no target":                {api.JoinRequest{Agent: "edge"}, admin, false, false, api.ErrBadRequest},
		"a target twice":           {api.JoinRequest{Agent: "edge", Targets: []access.TargetName{"app", "app"}}, admin, false, false, api.ErrBadRequest},
		"bad name":                 {api.JoinRequest{Agent: "Edge", Targets: []access.TargetName{"app"}}, admin, false, false, api.ErrBadRequest},
	} {
		if j, err := b.join(tt.r, tt.groups, tt.child, tt.revoked); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %+v, %v; want %v", name, j, err, tt.want)
		}
	}
	r := httptest.NewRequest(http.MethodPost, api.PathJoin, strings.NewReader(`{"agent":"edge","targets":["app"]}`))
	if err := b.do(r, nil); !errors.Is(err, api.ErrLogin) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestAJoinTokenIsGoodOnce(t *testing.T) {
	b := newBench(t)
	join, key := b.invite(), newKey()
	if _, err := b.enroll(join, csr(key)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.enroll(join, csr(newKey())); !errors.Is(err, api.ErrConflict) {
		t.Errorf("another key: %v", err)
	}
	// The answer was lost: the same key, and only it, may ask again, while the token lives.
	if _, err := b.enroll(join, csr(key)); err != nil {
		t.Errorf("the same key: %v", err)
	}
	b.now = b.now.Add(enroll.JoinLife)
	if _, err := b.enroll(join, csr(key)); !errors.Is(err, api.ErrLogin) {
		t.Errorf("the same key, too late: %v", err)
	}
	join = b.invite()
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := b.enroll(join, csr(newKey())); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 20 agents joined with one token", won.Load())
	}
}

func TestEnrollRefuses(t *testing.T) {
	b := newBench(t)
	join, good := b.invite(), csr(newKey())
	late := must(enroll.NewJoinToken(t.Context(), b.db, "edge", []access.TargetName{"app"}, b.now.Add(-enroll.JoinLife))).JoinToken
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	block, _ := pem.Decode([]byte(good))
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged := string(pem.EncodeToMemory(block))
	for name, tt := range map[string]struct {
		join, csr string
		want      error
	}{
		"no token":           {"", good, api.ErrLogin},
		"not a token":        {"sallyport-join-x", good, api.ErrLogin},
		"unknown token":      {"sallyport-join-" + token.NewRandom(), good, api.ErrLogin},
		"expired token":      {late, good, api.ErrLogin},
		"no CSR":             {join, "", api.ErrBadRequest},
		"another PEM":        {join, string(b.ca.PEM()), api.ErrBadRequest},
		"two CSRs":           {join, good + good, api.ErrBadRequest},
		"signature flipped":  {join, forged, api.ErrBadRequest},
		"another curve":      {join, csr(p384), api.ErrBadRequest},
		"a CSR of megabytes": {join, strings.Repeat("A", 1<<20), api.ErrTooLarge},
	} {
		if _, err := b.enroll(tt.join, tt.csr); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, err := b.enroll(join, good); err != nil {
		t.Errorf("refusals used the token up: %v", err)
	}
	r := httptest.NewRequest(http.MethodPost, api.PathEnroll, strings.NewReader(`{"join_token":"x","csr":"y","targets":["prod"]}`))
	if err := b.do(r, nil); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("unknown field: %v", err)
	}
}

// counted is a body without end that remembers how much of it was taken.
type counted struct{ n int }

func (c *counted) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	c.n += len(p)
	return len(p), nil
}

func TestAStrangersBodyIsBounded(t *testing.T) {
	b, body := newBench(t), &counted{}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, api.PathEnroll, io.LimitReader(body, api.MaxBody))
	if err := b.do(r, nil); !errors.Is(err, api.ErrTooLarge) || body.n > 64<<10 {
		t.Errorf("%d bytes were read: %v", body.n, err)
	}
}

func TestRecertify(t *testing.T) {
	b := newBench(t)
	key, next := newKey(), newKey()
	res := must(b.enroll(b.invite(), csr(key)))
	block, _ := pem.Decode([]byte(res.Certificate))
	cert := must(x509.ParseCertificate(block.Bytes))
	recertify := func(cert *x509.Certificate, key *ecdsa.PrivateKey) (out api.EnrollResponse, err error) {
		body := must(json.Marshal(api.RecertifyRequest{CSR: csr(next)}))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, api.PathRecertify, bytes.NewReader(body))
		if err := token.SignAgent(r, body, cert, key, b.now); err != nil {
			t.Fatal(err)
		}
		return out, b.do(r, &out)
	}
	b.now = b.now.Add(12 * time.Hour)
	out, err := recertify(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode([]byte(out.Certificate))
	a := must(token.ParseAgent(must(x509.ParseCertificate(block.Bytes))))
	if a.Name != "edge" || len(a.Targets) != 1 || a.Thumbprint != token.Thumbprint(&next.PublicKey) || a.Expires.Before(b.now.Add(23*time.Hour)) {
		t.Errorf("%+v", a)
	}
	other := newBench(t)
	foreign := must(other.enroll(other.invite(), csr(key)))
	block, _ = pem.Decode([]byte(foreign.Certificate))
	if _, err := recertify(must(x509.ParseCertificate(block.Bytes)), key); !errors.Is(err, api.ErrLogin) {
		t.Errorf("another CA's agent: %v", err)
	}
	b.now = b.now.Add(12 * time.Hour)
	if _, err := recertify(cert, key); !errors.Is(err, api.ErrLogin) {
		t.Errorf("an expired certificate: %v", err)
	}
}

func FuzzEnroll(f *testing.F) {
	f.Add("sallyport-join-x", csr(newKey()))
	f.Add("", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	db := must(sqlite.Open(filepath.Join(f.TempDir(), "store.db")))
	f.Cleanup(func() { _ = db.Close() })
	ca := must(token.LoadCA(f.Context(), db, fileKey{newKey()}, time.Now()))
	h := must(enroll.New(enroll.Config{Items: db, Verifier: token.NewVerifier("", 0), CA: ca, Bundles: bundle{}, Base: base}))
	f.Fuzz(func(t *testing.T, join, csr string) {
		body := must(json.Marshal(api.EnrollRequest{JoinToken: join, CSR: csr}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, api.PathEnroll, bytes.NewReader(body)))
		if w.Code == http.StatusOK || w.Code == http.StatusInternalServerError {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}
