package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// fakeBroker answers the CLI over real TLS with answers that are made up. It keeps nodes and what was revoked, believes tokens
// that it gave out itself, and decides nothing.
type fakeBroker struct {
	srv *httptest.Server
	ca  *x509.Certificate

	mu      sync.Mutex
	nodes   map[string]fakeNode // by token
	revoked []access.ActorID
	calls   []string
}

type fakeNode struct {
	lineage    access.Lineage
	capability access.Capability
}

var fakeTime = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

func newFakeBroker(t testing.TB) *fakeBroker {
	t.Helper()
	b := &fakeBroker{nodes: map[string]fakeNode{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathDiscovery, func(w http.ResponseWriter, _ *http.Request) {
		api.Write(w, api.Discovery{
			Issuer: b.srv.URL, OIDC: "http://127.0.0.1:1", ClientID: "cli", Relays: []string{"127.0.0.1:1"},
			CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.ca.Raw})),
		})
	})
	mux.HandleFunc("POST "+api.PathToken, b.token)
	for path, h := range map[string]func(*http.Request, fakeNode) (any, error){
		"POST " + api.PathRenew:                                  b.renew,
		"POST " + api.PathTicket:                                 b.ticket,
		"GET " + api.PathWhoami:                                  func(_ *http.Request, n fakeNode) (any, error) { return whoamiOf(n), nil },
		"POST " + api.PathCan:                                    b.can,
		"POST " + api.PathRevoke:                                 b.revoke,
		"POST " + api.PathJoin:                                   b.join,
		"POST " + api.PathRevokeAgent:                            b.revokeAgent,
		"GET " + api.PathActors:                                  b.actors,
		"GET " + api.PathApprovals:                               func(r *http.Request, _ fakeNode) (any, error) { return fakeApprovals(r.FormValue("status")), nil },
		"GET " + api.PathApprovals + "/{id}":                     b.approval,
		"GET " + api.PathSessions:                                func(*http.Request, fakeNode) (any, error) { return []api.SessionView{fakeSession(false)}, nil },
		"GET " + api.PathSessions + "/{id}":                      b.session,
		"GET " + api.PathSessions + "/{id}/recordings/{command}": b.recording,
		"GET " + api.PathSessions + "/{id}/bodies/{command}": func(r *http.Request, _ fakeNode) (any, error) {
			return api.ChunksView{From: 0, Next: 1, Data: []byte(`{"text":"much"}`), Ended: api.ReasonComplete}, nil
		},
		"POST " + api.PathSessions + "/{id}/end": b.end,
	} {
		mux.HandleFunc(path, b.authenticated(h))
	}
	b.serve(t, mux)
	return b
}

// serve listens under a CA of its own, as a broker does.
func (b *fakeBroker) serve(t testing.TB, h http.Handler) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(template, parent *x509.Certificate, pub *ecdsa.PublicKey, signer *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	caKey, leafKey := key(), key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	b.ca = sign(ca, ca, &caKey.PublicKey, caKey)
	uri, err := url.Parse(token.URIBroker)
	if err != nil {
		t.Fatal(err)
	}
	leaf := sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, b.ca, &leafKey.PublicKey, caKey)
	b.srv = httptest.NewUnstartedServer(h)
	b.srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, b.ca.Raw}, PrivateKey: leafKey}}}
	b.srv.StartTLS()
	t.Cleanup(b.srv.Close)
}

// url is what SALLYPORT_URL holds.
func (b *fakeBroker) url() string {
	pin := sha256.Sum256(b.ca.Raw)
	return b.srv.URL + "/#ca=" + base64.RawURLEncoding.EncodeToString(pin[:])
}

func (b *fakeBroker) give(n fakeNode) api.TokenResponse {
	raw := token.NewRandom()
	b.nodes[raw] = n
	return api.TokenResponse{
		AccessToken: raw, TokenType: "DPoP", ExpiresIn: 300, GrantExpires: fakeTime, Lineage: n.lineage, Capability: n.capability,
	}
}

func (b *fakeBroker) authenticated(h func(*http.Request, fakeNode) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.calls = append(b.calls, r.Method+" "+r.URL.Path)
		raw, err := token.Bearer(r)
		n, ok := b.nodes[raw]
		switch {
		case err != nil || !ok || r.Header.Get(token.HeaderDPoP) == "":
			err = api.Because(api.ErrLogin, "run `sallyport login`", "the token is not known")
		case slices.ContainsFunc(n.lineage.Path, func(p access.Node) bool { return slices.Contains(b.revoked, p.ID) }):
			err = api.Because(api.ErrRevoked, "ask alice", "%s was revoked", n.lineage.Chain())
		}
		if err != nil {
			api.Fail(w, nil, err)
			return
		}
		out, err := h(r, n)
		if err != nil {
			api.Fail(w, nil, err)
			return
		}
		api.Write(w, out)
	}
}

func (b *fakeBroker) token(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.FormValue(api.FieldSubjectType) == api.TypeIDToken {
		user, ok := strings.CutPrefix(r.FormValue(api.FieldSubject), "id-token-of-")
		if !ok {
			api.Fail(w, nil, api.Because(api.ErrLogin, "get a fresh ID token", "the ID token is not valid"))
			return
		}
		api.Write(w, b.give(fakeNode{
			lineage:    access.Lineage{Principal: user, Groups: []string{"engineers"}, Path: []access.Node{{ID: "ROOT", Name: user}}},
			capability: access.Everything(),
		}))
		return
	}
	parent, ok := b.nodes[r.FormValue(api.FieldSubject)]
	if !ok {
		api.Fail(w, nil, api.Because(api.ErrLogin, "", "the parent's token is not known"))
		return
	}
	var c access.Capability
	for _, s := range r.Form[api.FieldCapability] {
		g, err := access.ParseGrantlet(s)
		if err != nil {
			api.Fail(w, nil, api.Because(api.ErrBadRequest, "", "%v", err))
			return
		}
		c = append(c, g)
	}
	if r.FormValue(api.FieldName) == "forbidden" {
		api.Fail(w, nil, api.Because(api.ErrDenied, "choose another name", "actors must not be called forbidden"))
		return
	}
	n := fakeNode{lineage: parent.lineage, capability: c}
	n.lineage.Path = append(slices.Clone(parent.lineage.Path), access.Node{
		ID: access.ActorID(strings.ToUpper(r.FormValue(api.FieldName))), Name: r.FormValue(api.FieldName), Purpose: r.FormValue(api.FieldPurpose),
	})
	api.Write(w, b.give(n))
}

func (b *fakeBroker) renew(_ *http.Request, n fakeNode) (any, error) { return b.give(n), nil }

func (b *fakeBroker) ticket(r *http.Request, _ fakeNode) (any, error) {
	var in api.TicketRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	out := api.TicketResponse{Ticket: "t", Nonce: "n", Relays: []string{"127.0.0.1:1"}, Protocol: "postgres", Database: "shop", Name: in.Target}
	switch in.Target {
	case "app", "other":
		return out, nil
	case "strange":
		out.Protocol = "gopher"
		return out, nil
	}
	return nil, api.Because(api.ErrNotFound, "`sallyport can connect TARGET` tells", "there is no target %q", in.Target)
}

func whoamiOf(n fakeNode) api.Whoami {
	return api.Whoami{Lineage: n.lineage, Capability: n.capability, TokenExpires: fakeTime, GrantExpires: fakeTime, Administrator: n.lineage.Principal == "adam"}
}

func (b *fakeBroker) can(r *http.Request, n fakeNode) (any, error) {
	var in api.CanRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	d := access.Decision{Rule: "default-deny", Hint: "ask for a policy"}
	switch {
	case !n.capability.Permits(in.Effect, in.Target, in.Resource.Name):
		d.Rule = "capability"
	case in.Resource.Name == "public.accounts" && in.Effect == access.Write:
		d = access.Decision{Outcome: access.Hold, Rule: "prod-write", HoldName: "prod-write"}
	case in.Effect == access.Read:
		d = access.Decision{Outcome: access.Allow, Rule: "engineers-read", Obligations: []access.Obligation{{Kind: access.ObligeMask, Classes: []string{"email"}}}}
	}
	return api.CanResponse{Decision: d}, nil
}

func (b *fakeBroker) revoke(r *http.Request, _ fakeNode) (any, error) {
	var in api.RevokeRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	b.revoked = append(b.revoked, in.Actor)
	return struct{}{}, nil
}

func (b *fakeBroker) join(r *http.Request, n fakeNode) (any, error) {
	var in api.JoinRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if n.lineage.Principal != "adam" {
		return nil, api.Because(api.ErrDenied, "ask an administrator", "only administrators enroll agents")
	}
	return api.JoinResponse{JoinToken: fmt.Sprintf("join-%s-%v", in.Agent, in.Targets), Expires: fakeTime}, nil
}

func (b *fakeBroker) revokeAgent(r *http.Request, n fakeNode) (any, error) {
	var in api.RevokeAgentRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if n.lineage.Principal != "adam" || in.Reason != "the machine is gone" {
		return nil, api.Because(api.ErrDenied, "ask an administrator", "alice may not revoke agents").By(api.RuleAdministrators)
	}
	return api.RevokeAgentResponse{Before: fakeTime, Sessions: 2}, nil
}

func (b *fakeBroker) actors(_ *http.Request, n fakeNode) (any, error) {
	root := api.ActorView{Node: n.lineage.Path[0], Status: "live", Expires: fakeTime}
	for _, known := range b.nodes {
		if len(known.lineage.Path) == 2 {
			root.Children = append(root.Children, api.ActorView{Node: known.lineage.Path[1], Status: "live", Expires: fakeTime})
		}
	}
	return []api.ActorView{root}, nil
}

func fakeApprovals(status string) []api.ApprovalView {
	all := []api.ApprovalView{{
		ID: "APP1", Status: "claimed", Hold: "prod-write", Session: "SES1", Command: "CMD2", Target: "app",
		State: access.State{Database: "shop", Role: "app"}, Text: "update accounts set balance = $1 where id = 1",
		Params:  []access.Param{{Value: []byte("5\x1b[2J")}, {Null: true}},
		Touches: []access.Touch{{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.accounts", Columns: []string{"balance"}}}},
		Lineage: fakeLineage(), Created: fakeTime, Expires: fakeTime, By: "rita", DecidedAt: fakeTime, Reason: "ticket 4711", Link: "https://console/approve/APP1",
	}}
	return slices.DeleteFunc(all, func(v api.ApprovalView) bool { return status != "" && v.Status != status })
}

func (b *fakeBroker) approval(r *http.Request, _ fakeNode) (any, error) {
	if r.PathValue("id") != "APP1" {
		return nil, api.Because(api.ErrNotFound, "`sallyport approvals ls` lists them", "there is no approval %q", r.PathValue("id"))
	}
	return fakeApprovals("")[0], nil
}

func fakeLineage() access.Lineage {
	return access.Lineage{Principal: "alice", Groups: []string{"engineers"}, Path: []access.Node{
		{ID: "ROOT", Name: "alice"}, {ID: "CODER", Name: "coder", Purpose: "fix ticket 4711"},
	}}
}

func (b *fakeBroker) session(r *http.Request, _ fakeNode) (any, error) {
	if r.PathValue("id") == "SES3" {
		return fakeRecorded(), nil
	}
	if r.PathValue("id") != "SES1" {
		return nil, api.Because(api.ErrNotFound, "`sallyport sessions ls` lists them", "there is no session %q", r.PathValue("id"))
	}
	return fakeSession(true), nil
}

func fakeSession(full bool) api.SessionView {
	s := api.SessionView{
		ID: "SES1", Target: "app", Agent: "agent-1", Lineage: fakeLineage(), Opened: fakeTime, Closed: fakeTime, Status: "closed",
		Client: api.Client{Program: "psql", PID: 42, UID: 1000}, Count: 4,
	}
	if !full {
		return s
	}
	approval := fakeApprovals("")[0]
	s.Commands = []api.CommandView{
		{
			ID: "CMD1", Seq: 1, Time: fakeTime, Verb: "SELECT", Text: "select *\nfrom customers",
			Touches:  []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.customers"}}},
			Decision: access.Decision{Outcome: access.Allow, Rule: "engineers-read", Obligations: []access.Obligation{{Kind: access.ObligeMask, Classes: []string{"email", "card"}}}},
			Result:   &access.Result{Status: access.StatusOK, Tag: "SELECT 2", Rows: 2, Bytes: 100, Masked: map[string]int64{"email": 2, "card": 1}, Duration: 1500},
		},
		{
			ID: "CMD2", Seq: 2, Time: fakeTime, Verb: "UPDATE", Text: approval.Text,
			Decision: access.Decision{Outcome: access.Hold, Rule: "prod-write", HoldName: "prod-write"}, Approval: &approval,
			Result: &access.Result{Status: access.StatusOK, Tag: "UPDATE 1", Rows: 1},
		},
		{
			ID: "CMD3", Seq: 3, Time: fakeTime, Verb: "DROP", Text: "drop table \x1b]0;x\a customers",
			Decision: access.Decision{Rule: "no-destructive", Reasons: []string{"tables are not dropped"}, Hint: "write a migration"},
		},
		{
			ID: "CMD4", Seq: 4, Time: fakeTime, Verb: "SELECT", Text: "select 1", Decision: access.Decision{Outcome: access.Allow, Rule: "engineers-read"},
		},
	}
	return s
}

// fakeRecorded is a session with two terminals, one of which is over, and a file.
func fakeRecorded() api.SessionView {
	s := fakeSession(false)
	s.ID, s.Status, s.Closed = "SES3", "open", time.Time{}
	s.Recordings = []api.RecordingView{
		{Command: "TAPE1", Seq: 1, Kind: api.RecordingCast, Name: "a shell\x1b]0;x\a", Chunks: 4, Bytes: 300, Started: fakeTime, Updated: fakeTime, Ended: api.ReasonComplete},
		{Command: "FILE1", Seq: 2, Kind: api.RecordingFile, Name: "/etc/motd", Chunks: 1, Bytes: 4, Started: fakeTime, Updated: fakeTime, Ended: api.ReasonInterrupted},
		{Command: "TAPE2", Seq: 3, Kind: api.RecordingCast, Chunks: 4, Bytes: 300, Started: fakeTime, Updated: fakeTime},
	}
	return s
}

// fakeChunks are a terminal's, cut within a line; what is in them would do more than draw.
var fakeChunks = []string{
	`{"version": 2, "width": 80, "height": 24, "timestamp": 1925000000}` + "\n" + `[0.1, "o", "$ whoami\r\nalice\r\n"]` + "\n" + `[0.2, "i", "typed"]`,
	"\n" + `[3600.5, "o", "\u001b]52;c;QkFE\u0007\u001b[31mred\u001b[0m\u001b[6n\r\n"]` + "\n" + `[3600.6, "r", "100x`,
	`40"]` + "\n" + `[3600.7, "o", "bye\r\n"]` + "\n",
	"",
}

// recording answers with a chunk at a time; TAPE2 ends with the third.
func (b *fakeBroker) recording(r *http.Request, _ fakeNode) (any, error) {
	from, err := strconv.Atoi(r.FormValue("from"))
	command := r.PathValue("command")
	if err != nil || r.PathValue("id") != "SES3" || from > len(fakeChunks) {
		return nil, api.Because(api.ErrNotFound, "", "there is no such recording")
	}
	if command == "FILE1" {
		return api.ChunksView{From: from, Next: 1, Data: []byte{0, 1, 0xff, '\n'}, Ended: api.ReasonInterrupted}, nil
	}
	v := api.ChunksView{From: from, Next: min(from+1, len(fakeChunks))}
	if from < len(fakeChunks) {
		v.Data = []byte(fakeChunks[from])
	}
	switch {
	case command == "TAPE1" && v.Next == len(fakeChunks):
		v.Ended = api.ReasonComplete
	case command == "TAPE2" && v.Next == 3 && slices.Contains(b.calls, "tape2 again"):
		v.Ended = api.ReasonSession
	case command == "TAPE2" && from == 2:
		b.calls = append(b.calls, "tape2 again") // the first time there is nothing yet
		return api.ChunksView{From: 2, Next: 2}, nil
	}
	return v, nil
}

func (b *fakeBroker) end(r *http.Request, _ fakeNode) (any, error) {
	var in api.EndRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if r.PathValue("id") != "SES3" {
		return nil, api.Because(api.ErrDenied, "ask its principal or an administrator", "alice may not end that session")
	}
	b.calls = append(b.calls, "end "+in.Reason)
	return struct{}{}, nil
}

// called says whether a call came in.
func (b *fakeBroker) called(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.calls, what)
}
