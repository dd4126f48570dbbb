package embedded_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/approve"
	"github.com/sallyport/sallyport/functions/changes"
	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/functions/enroll"
	"github.com/sallyport/sallyport/functions/record"
	"github.com/sallyport/sallyport/functions/seal"
	tokenfn "github.com/sallyport/sallyport/functions/token"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/bundles"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/policies"
)

// place is every function, over stores and keys that fail as planned.
type place struct {
	*brokertest.World
	mux     *http.ServeMux
	sealer  *seal.Sealer
	agent   *brokertest.Agent
	adam    *brokertest.Person
	alice   *brokertest.Person
	session *brokertest.Session
	ran     access.Command // decided in the session
}

// key signs unless the plan says otherwise.
type key struct {
	brokertest.Signer
	faults *storetest.Faults
	name   string
}

func (k key) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if err := k.faults.Fails("sign", k.name); err != nil {
		return nil, err
	}
	return k.Signer.Sign(ctx, digest)
}

// bucket is a directory whose calls are planned by the bucket's name.
type bucket struct {
	*dir.Dir
	faults *storetest.Faults
	name   string
}

func (b bucket) Create(ctx context.Context, name string, body []byte) error {
	if err := b.faults.Fails("create", b.name); err != nil {
		return err
	}
	return b.Dir.Create(ctx, name, body)
}

func (b bucket) Open(ctx context.Context, name string) ([]byte, error) {
	if err := b.faults.Fails("open", b.name); err != nil {
		return nil, err
	}
	return b.Dir.Open(ctx, name)
}

func (b bucket) Load(ctx context.Context, name string) ([]byte, error) {
	if err := b.faults.Fails("load", b.name); err != nil {
		return nil, err
	}
	return b.Dir.Load(ctx, name)
}

func (b bucket) Swap(ctx context.Context, name string, old, body []byte) error {
	if err := b.faults.Fails("swap", b.name); err != nil {
		return err
	}
	return b.Dir.Swap(ctx, name, old, body)
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{World: brokertest.New(t)}
	ca, signer := key{brokertest.NewSigner(t), p.Faults, "ca"}, key{brokertest.NewSigner(t), p.Faults, "token"}
	der, err := token.CreateCA(t.Context(), ca, p.Now())
	brokertest.Must(t, err)
	p.CA, err = token.NewCA(ca, der)
	brokertest.Must(t, err)
	p.Issuer, p.Verifier = token.NewIssuer(brokertest.Issuer, signer, 1), token.NewVerifier(brokertest.Issuer, 1, signer.Public())
	tree, err := policies.Pack("guarded-postgres")
	brokertest.Must(t, err)
	bundle, err := policy.Load(tree)
	brokertest.Must(t, err)
	policyBucket, evidence := p.bucket(t, "policy"), p.bucket(t, "evidence")
	brokertest.Must(t, bundles.Publish(t.Context(), p.DB, policyBucket.Dir, bundle))
	p.Use(bundle)
	p.functions(t, policyBucket, evidence)
	p.agent, p.adam, p.alice = p.Agent("edge", "app"), p.Login("adam", "administrators", "auditors"), p.Login("alice", "engineers")
	p.session = p.Seed(p.agent, p.alice, "app")
	p.ran = p.session.Command(0, access.Read, "public.orders", "select 1")
	kept, err := audit.CommandOf(p.ran, p.session.Digest(p.ran), p.session.State.DataKey)
	brokertest.Must(t, err)
	put, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(p.ran.ID), Time: p.Now(), Agent: p.agent.Name, Session: p.ran.Session, Seq: p.ran.Seq,
		Command: kept, Decision: &access.Decision{Command: p.ran.ID, Seq: p.ran.Seq, Digest: p.session.Digest(p.ran), Outcome: access.Allow}})
	brokertest.Must(t, err)
	brokertest.Must(t, p.DB.Put(t.Context(), put))
	p.session.Stored(p.ran)
	return p
}

func (p *place) bucket(t *testing.T, name string) bucket {
	d, err := dir.Open(t.TempDir())
	brokertest.Must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return bucket{d, p.Faults, name}
}

func (p *place) functions(t *testing.T, policyBucket, evidence bucket) {
	source := bundles.NewSource(p.Items, policyBucket, time.Hour)
	p.mux = http.NewServeMux()
	mount := func(h http.Handler, err error, paths ...string) {
		brokertest.Must(t, err)
		for _, path := range paths {
			p.mux.Handle(path, h)
		}
	}
	h, err := tokenfn.New(tokenfn.Config{Items: p.Items, Issuer: p.Issuer, Verifier: p.Verifier, CA: p.CA, StateKey: p.StateKey, Bundles: source, Now: p.Now,
		OIDC: tokenfn.OIDC{Issuer: "https://idp.test", ClientID: "cli"}, Console: "https://console.test", Base: brokertest.Issuer})
	mount(h, err, api.PathRenew, api.PathTicket, api.PathRevoke, api.PathWhoami, api.PathDiscovery)
	h, err = enroll.New(enroll.Config{Items: p.Items, Verifier: p.Verifier, CA: p.CA, Bundles: source, Base: brokertest.Issuer, Now: p.Now})
	mount(h, err, api.PathJoin, api.PathEnroll, api.PathRecertify, api.PathRevokeAgent)
	h, err = decide.New(decide.Config{Items: p.Items, Evidence: evidence, Uploads: &dir.Uploads{Dir: policyBucket.Dir, Base: brokertest.Issuer, Key: make([]byte, 32), Now: p.Now},
		Bundles: source, Verifier: p.Verifier, CA: p.CA.Cert(), StateKey: p.StateKey, Console: "https://console.test", Base: brokertest.Issuer, Now: p.Now})
	mount(h, err, api.PathOpen, api.PathCheck, api.PathUpload, api.PathClaim, api.PathClose, api.PathCan)
	h, err = changes.New(changes.Config{Items: p.Items, CA: p.CA.Cert(), StateKey: p.StateKey, Bundles: source, Now: p.Now})
	mount(h, err, api.PathChanges)
	h, err = record.New(record.Config{Items: p.Items, Blobs: evidence, CA: p.CA.Cert(), StateKey: p.StateKey, Now: p.Now})
	mount(h, err, api.PathRecord, api.PathChunks)
	h, err = approve.New(approve.Config{Items: p.Items, Evidence: evidence, Bundles: source, Verifier: p.Verifier, Base: "https://console.test", API: brokertest.Issuer,
		StateKey: p.StateKey, OIDC: approve.OIDC{Issuer: "https://idp.test", ClientID: "console"}, Now: p.Now})
	mount(h, err, api.PathApprovals, api.PathApprovals+"/", api.PathSessions, api.PathSessions+"/", api.PathActors)
	p.sealer, err = seal.New(seal.Config{Items: p.Items, Feed: storetest.FaultyFeed{Faults: p.Faults, Feed: p.DB}, Blobs: evidence, Heads: evidence,
		Signer: key{brokertest.NewSigner(t), p.Faults, "checkpoint"}, Origin: "sallyport.test/audit", Now: func() time.Time { return p.Now().Add(time.Hour) }})
	brokertest.Must(t, err)
}

func (p *place) csr() string {
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, brokertest.NewKey(p.T))
	brokertest.Must(p.T, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}))
}

// get is what an auditor asks.
func (p *place) get(path string) *http.Request { return p.person(p.adam, http.MethodGet, path, nil) }

func (p *place) person(who *brokertest.Person, method, path string, in any) *http.Request {
	var body []byte
	if in != nil {
		var err error
		body, err = json.Marshal(in)
		brokertest.Must(p.T, err)
	}
	r := httptest.NewRequest(method, brokertest.Issuer+path, bytes.NewReader(body))
	proof, err := token.SignDPoP(who.Key, method, brokertest.Issuer+path, who.Token, p.Now())
	brokertest.Must(p.T, err)
	r.Header.Set("Authorization", "DPoP "+who.Token)
	r.Header.Set("DPoP", proof)
	return r
}

// call is made in a place of its own. Seal's has no request.
type call struct {
	name string
	make func(p *place) *http.Request
}

// asked are the calls of clients, agents and auditors.
var asked = []call{
	{"token renew", func(p *place) *http.Request {
		p.Advance(2 * time.Minute)
		return p.person(p.alice, http.MethodPost, api.PathRenew, nil)
	}},
	{"token ticket", func(p *place) *http.Request {
		return p.person(p.alice, http.MethodPost, api.PathTicket, api.TicketRequest{Target: "app", Endpoint: token.NewRandom()})
	}},
	{"token whoami", func(p *place) *http.Request { return p.get(api.PathWhoami) }},
	{"token revoke", func(p *place) *http.Request {
		root := p.alice.Claims.Lineage().Root()
		return p.person(p.adam, http.MethodPost, api.PathRevoke, api.RevokeRequest{Root: root, Actor: root})
	}},
	{"enroll join token", func(p *place) *http.Request {
		return p.person(p.adam, http.MethodPost, api.PathJoin, api.JoinRequest{Agent: "new", Targets: []access.TargetName{"app"}})
	}},
	{"enroll agent", func(p *place) *http.Request {
		j, err := enroll.NewJoinToken(p.T.Context(), p.DB, "new", []access.TargetName{"app"}, p.Now())
		brokertest.Must(p.T, err)
		body, err := json.Marshal(api.EnrollRequest{JoinToken: j.JoinToken, CSR: p.csr()})
		brokertest.Must(p.T, err)
		return httptest.NewRequest(http.MethodPost, brokertest.Issuer+api.PathEnroll, bytes.NewReader(body))
	}},
	{"enroll renewal", func(p *place) *http.Request {
		return p.agent.Request(api.PathRecertify, api.RecertifyRequest{CSR: p.csr()})
	}},
	{"enroll revoke agent", func(p *place) *http.Request {
		return p.person(p.adam, http.MethodPost, api.PathRevokeAgent, api.RevokeAgentRequest{Agent: "edge"})
	}},
	{"decide open", func(p *place) *http.Request { return p.agent.Request(api.PathOpen, p.Open(p.agent, p.alice, "app")) }},
	{"decide allow", func(p *place) *http.Request {
		return p.ask(p.session.Command(0, access.Read, "public.orders", "select 2"))
	}},
	{"decide hold", func(p *place) *http.Request {
		return p.ask(p.session.Command(0, access.Write, "public.accounts", "update accounts set a = 1 where id = 1"))
	}},
	{"decide large command", func(p *place) *http.Request {
		return p.ask(p.session.Command(0, access.Read, "public.orders", "select '"+strings.Repeat("x", 1<<20)+"'"))
	}},
	{"decide close", func(p *place) *http.Request {
		return p.agent.Request(api.PathClose, api.CloseRequest{Agent: p.agent.Name, Session: p.session.State.Session, State: p.session.Raw, LastSeq: p.session.Seq, Prev: p.session.Prev, Reason: "done"})
	}},
	{"decide can", func(p *place) *http.Request {
		return p.person(p.alice, http.MethodPost, api.PathCan, api.CanRequest{Target: "app", Effect: access.Read, Database: "shop", Resource: access.Resource{Kind: access.KindTable, Name: "public.orders"}})
	}},
	{"changes", func(p *place) *http.Request {
		return p.agent.Request(api.PathChanges, api.ChangesRequest{Agent: p.agent.Name, Sessions: []api.LiveSession{{Session: p.session.State.Session, State: p.session.Raw}}})
	}},
	{"record outcome", func(p *place) *http.Request {
		return p.agent.Request(api.PathRecord, api.RecordRequest{Agent: p.agent.Name, Outcomes: []api.Outcome{{Session: p.ran.Session, Command: p.ran.ID, Seq: p.ran.Seq, Time: p.Now(),
			Result: access.Result{Status: access.StatusOK, Tag: "SELECT 1", Rows: 1}}}})
	}},
	{"record chunk", func(p *place) *http.Request {
		return p.agent.Request(api.PathChunks, api.ChunksRequest{Agent: p.agent.Name, Chunks: []api.Chunk{{Session: p.ran.Session, Command: p.ran.ID, Seq: p.ran.Seq,
			Kind: api.RecordingCast, Name: "a terminal", Time: p.Now(), Data: []byte("x"), Last: true, Reason: api.ReasonComplete}}})
	}},
	{"approve approvals", func(p *place) *http.Request { return p.get(api.PathApprovals) }},
	{"approve sessions", func(p *place) *http.Request { return p.get(api.PathSessions) }},
	{"approve one session", func(p *place) *http.Request { return p.get(api.PathSessions + "/" + string(p.session.State.Session)) }},
	{"approve actors", func(p *place) *http.Request { return p.get(api.PathActors) }},
	{"approve end session", func(p *place) *http.Request {
		return p.person(p.adam, http.MethodPost, api.PathSessions+"/"+string(p.session.State.Session)+"/end", api.EndRequest{Reason: "enough"})
	}},
	{"seal", nil},
}

func (p *place) ask(c access.Command) *http.Request {
	return p.agent.Request(api.PathCheck, api.CheckRequest{Agent: p.agent.Name, Asks: []api.Ask{p.session.Ask(c)}})
}

// heard is what the caller is told: "ok", or the error's status, code, rule and hint.
func (p *place) heard(r *http.Request) string {
	if r == nil {
		if _, err := p.sealer.Seal(p.T.Context()); err != nil {
			return "the run fails"
		}
		return "ok"
	}
	w := httptest.NewRecorder()
	p.mux.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Body)
	brokertest.Must(p.T, err)
	e := new(api.Error)
	if w.Code == http.StatusOK {
		var answers api.CheckResponse
		if json.Unmarshal(body, &answers) != nil || len(answers.Answers) != 1 || answers.Answers[0].Error == nil {
			return "ok"
		}
		e = answers.Answers[0].Error
	} else {
		brokertest.Must(p.T, json.Unmarshal(body, e))
	}
	if bytes.Contains(body, []byte(storetest.ErrFault.Error())) {
		p.T.Errorf("the caller is told of the store's own words: %s", body)
	}
	return fmt.Sprintf("%s, %s: %s", e.Code, e.Rule, e.Hint)
}

const page = "../../docs/reference/failures.md"

// Each call to a table, a bucket or a key fails, in each call of each function. Callers hear that there is no answer and may ask again; never
// "internal", never a refusal that would be believed, never an allow. docs/reference/failures.md is the table, line by line.
func TestWhatCallersHear(t *testing.T) {
	var mu sync.Mutex
	var rows []string
	t.Run("calls", func(t *testing.T) {
		for _, a := range asked {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				for got, what := range hear(t, a) {
					slices.Sort(what)
					mu.Lock()
					rows = append(rows, fmt.Sprintf("| %s | %s | %s |", a.name, strings.Join(what, ", "), got))
					mu.Unlock()
				}
			})
		}
	})
	slices.Sort(rows)
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| call |") {
			written = append(written, line)
		}
	}
	if !slices.Equal(written, rows) {
		t.Errorf("%s has not these lines:\n%s", page, strings.Join(rows, "\n"))
	}
}

// hear tells what failed by what the caller heard.
func hear(t *testing.T, a call) map[string][]string {
	begin := func() (*place, *http.Request) {
		p := newPlace(t)
		if a.make == nil {
			return p, nil
		}
		return p, a.make(p)
	}
	var calls []string
	p, r := begin()
	p.Faults.Set(func(op, on string) storetest.Fault { calls = append(calls, op+" "+on); return storetest.None })
	if got := p.heard(r); got != "ok" {
		t.Fatalf("without a fault: %s", got)
	}
	heard := map[string][]string{}
	for n, call := range calls {
		p, r := begin()
		count := -1
		p.Faults.Set(func(string, string) storetest.Fault {
			if count++; count == n {
				return storetest.NotApplied
			}
			return storetest.None
		})
		got := p.heard(r)
		p.Faults.Set(nil)
		switch {
		case count < n:
			t.Errorf("the fault %d of %s was never met", n, call)
		case a.make != nil && !strings.HasPrefix(got, "unavailable, "), got == "ok":
			t.Errorf("%s fails (%d), and the caller hears: %s", call, n, got)
		}
		if !slices.Contains(heard[got], call) {
			heard[got] = append(heard[got], call)
		}
	}
	return heard
}
