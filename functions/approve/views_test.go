package approve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
)

// ask calls the JSON side with a person's token and proof.
func (w *world) ask(p *brokertest.Person, path string, out any) error {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodGet, brokertest.Issuer+path, nil)
	htu, _, _ := strings.Cut(brokertest.Issuer+path, "?")
	proof, err := token.SignDPoP(p.Key, http.MethodGet, htu, p.Token, w.Now())
	brokertest.Must(w.t, err)
	r.Header.Set("Authorization", "DPoP "+p.Token)
	r.Header.Set("DPoP", proof)
	return brokertest.Do(w.t, w.pages.Config.Handler, r, out)
}

func denyBy(rule string) access.Decision { return access.Decision{Outcome: access.Deny, Rule: rule} }

var allowed = access.Decision{Outcome: access.Allow, Rule: "read"}

func sessionIDs(ss []api.SessionView) (out []access.SessionID) {
	for _, s := range ss {
		out = append(out, s.ID)
	}
	slices.Sort(out)
	return out
}

// A person sees the own logins and all under them; an actor itself and what is under it; only persons of the auditors see all.
func TestWhoMaySeeWhat(t *testing.T) {
	w := newWorld(t)
	coder := w.child(w.alice, "coder", "code")
	tester := w.child(coder, "tester", "test")
	sibling := w.child(w.alice, "writer", "write")
	eve, adam := w.Login("eve", "engineers"), w.Login("adam", "auditors")
	w.index(eve)
	w.index(adam)
	robot := w.child(adam, "robot", "of an auditor")
	again := w.Login("alice", "engineers") // a second login of hers
	w.index(again)
	people := map[string]*brokertest.Person{"alice": w.alice, "coder": coder, "tester": tester, "sibling": sibling, "eve": eve, "adam": adam, "robot": robot, "again": again}
	sessions, holds := map[string]access.SessionID{}, map[string]access.ApprovalID{}
	for name, p := range people {
		s := w.Seed(w.agent, p, "app")
		w.audit(w.command(s, "select '"+name+"'", denyBy("rule-of-"+name)))
		sessions[name], holds[name] = s.State.Session, w.hold(p).ID
	}
	all := []string{"alice", "coder", "tester", "sibling", "eve", "adam", "robot", "again"}
	hers := []string{"alice", "coder", "tester", "sibling", "again"}
	for name, sees := range map[string][]string{"alice": hers, "again": hers, "coder": {"coder", "tester"}, "tester": {"tester"}, "sibling": {"sibling"}, "eve": {"eve"}, "adam": all, "robot": {"robot"}} {
		var want []access.SessionID
		for _, s := range sees {
			want = append(want, sessions[s])
		}
		slices.Sort(want)
		var ss []api.SessionView
		brokertest.Must(t, w.ask(people[name], api.PathSessions, &ss))
		if got := sessionIDs(ss); !slices.Equal(got, want) {
			t.Errorf("%s sees sessions %v, want %v", name, got, want)
		}
		var as []api.ApprovalView
		brokertest.Must(t, w.ask(people[name], api.PathApprovals+"?status=pending", &as))
		if len(as) != len(sees) {
			t.Errorf("%s sees %d approvals, want %d", name, len(as), len(sees))
		}
		var trees []api.ActorView
		brokertest.Must(t, w.ask(people[name], api.PathActors, &trees))
		if names := namesIn(trees); len(names) != len(sees) {
			t.Errorf("%s sees actors %v, want %v", name, names, sees)
		}
		for _, other := range all {
			var one api.SessionView
			err := w.ask(people[name], api.PathSessions+"/"+string(sessions[other]), &one)
			var app api.ApprovalView
			aerr := w.ask(people[name], api.PathApprovals+"/"+string(holds[other]), &app)
			if may := slices.Contains(sees, other); may != (err == nil) || may != (aerr == nil) || !may && (!errors.Is(err, api.ErrNotFound) || !errors.Is(aerr, api.ErrNotFound)) {
				t.Errorf("%s looks at %s: %v, %v", name, other, err, aerr)
			} else if may && (len(one.Commands) != 1 || one.Commands[0].Text != "select '"+other+"'" || app.Text != held) {
				t.Errorf("%s: %+v %+v", name, one, app)
			}
		}
	}
	w.pagesToo(sessions, holds)
}

func namesIn(ts []api.ActorView) (out []string) {
	for _, t := range ts {
		out = append(append(out, t.Node.Name), namesIn(t.Children)...)
	}
	return out
}

// pagesToo: in a browser everybody is a person.
func (w *world) pagesToo(sessions map[string]access.SessionID, holds map[string]access.ApprovalID) {
	for user, sees := range map[string][]string{"alice": {"alice", "coder", "tester", "sibling", "again"}, "eve": {"eve"}, "rita": nil, "adam": {"alice", "eve", "adam", "robot"}} {
		v := w.as(user)
		live := v.get("/").body
		for name, id := range sessions {
			may := slices.Contains(sees, name) || user == "adam"
			if p := v.get("/sessions/" + string(id)); may != (p.status == 200) || !may && p.status != 404 || may && !p.says("select '"+name+"'") {
				w.t.Errorf("%s looks at the session of %s: %d", user, name, p.status)
			}
			if may != strings.Contains(live, "rule-of-"+name) || may != strings.Contains(live, "/sessions/"+string(id)) {
				w.t.Errorf("%s sees the denial of %s on the live page: %t", user, name, !may)
			}
			if mayRead := may || user == "rita"; mayRead != strings.Contains(live, "/approve/"+string(holds[name])) {
				w.t.Errorf("%s sees that %s waits: %t", user, name, !mayRead)
			}
		}
		if user == "rita" && strings.Contains(live, ">coder<") {
			w.t.Error("rita sees actors of others")
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	w := newWorld(t)
	coder := w.child(w.alice, "coder", "x")
	var out any
	r := httptest.NewRequest(http.MethodGet, brokertest.Issuer+api.PathSessions, nil)
	if err := brokertest.Do(t, w.pages.Config.Handler, r, &out); !errors.Is(err, api.ErrLogin) {
		t.Errorf("no token: %v", err)
	}
	for _, q := range []string{"0", "-1", "501", "x"} {
		if err := w.ask(w.alice, api.PathSessions+"?limit="+q, &out); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("limit %s: %v", q, err)
		}
	}
	for _, path := range []string{api.PathSessions + "/x", api.PathApprovals + "/x", api.PathSessions + "/" + w.ID(), api.PathApprovals + "/" + w.ID()} {
		if err := w.ask(w.alice, path, &out); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
	coder.Revoke()
	for _, path := range []string{api.PathSessions, api.PathApprovals, api.PathActors} {
		if err := w.ask(coder, path, &out); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("%s of a revoked actor: %v", path, err)
		}
		brokertest.Must(t, w.ask(w.alice, path, &out))
	}
	var trees []api.ActorView
	brokertest.Must(t, w.ask(w.alice, api.PathActors, &trees))
	if len(trees) != 1 || len(trees[0].Children) != 1 || trees[0].Children[0].Status != "revoked" || trees[0].Status != "live" {
		t.Errorf("%+v", trees)
	}
	w.alice.Edit(func(r *token.Root) { r.Suspended = true })
	if err := w.ask(w.alice, api.PathSessions, &out); !errors.Is(err, api.ErrRevoked) {
		t.Errorf("a suspended login: %v", err)
	}
	// Roles that cannot be read open nothing.
	adam := w.Login("adam", "auditors")
	w.Seed(w.agent, w.alice, "app")
	w.Use(nil)
	var ss []api.SessionView
	if err := w.ask(adam, api.PathSessions, &ss); !errors.Is(err, api.ErrUnavailable) || len(ss) != 0 {
		t.Errorf("%v %v", err, ss)
	}
	if p := w.as("adam").get("/"); p.status != 200 || strings.Contains(p.body, "sees everybody") {
		t.Errorf("%d", p.status)
	}
}

// counting counts the queries of a table.
type counting struct {
	store.Items
	mu    sync.Mutex
	count map[string]int
}

func (c *counting) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	c.mu.Lock()
	c.count[table]++
	c.mu.Unlock()
	return c.Items.Query(ctx, table, pk, prefix, cursor, limit)
}

func (c *counting) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.count
	c.count = map[string]int{}
	return got
}

// A session tells what became of each command: from the evidence alone.
func TestSessionTellsWhatBecameOfIt(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	first := w.command(s, "select 1", allowed)
	second := w.command(s, "drop table x", denyBy("no-destructive"))
	w.audit(first, second) // a batch is one item
	w.audit(audit.Entry{V: 1, Kind: audit.KindOutcome, ID: first.ID, Time: w.Now(), Agent: "agent-1", Session: s.State.Session, Seq: 1,
		Result: &access.Result{Status: access.StatusOK, Tag: "SELECT 1", Rows: 1, Masked: map[string]int64{"email": 3}}})
	held := map[string]audit.Entry{}
	for _, what := range []string{"pending", "approved", "denied", "claimed", "withdrawn", "expired"} {
		expires := w.Now().Add(time.Hour)
		if what == "expired" {
			expires = w.Now()
		}
		e := w.command(s, "update "+what, access.Decision{Outcome: access.Hold, Rule: "hold-accounts", HoldName: "prod-write", Approval: access.ApprovalID(w.ID()), Expires: expires})
		w.audit(e)
		held[what] = e
		verdict := func(kind audit.Kind, status approval.Status) {
			w.audit(audit.Entry{V: 1, Kind: kind, ID: e.ID, Time: w.Now(), Agent: "agent-1", Session: e.Session, Seq: e.Seq,
				Approval: &audit.Approval{ID: e.Decision.Approval, Status: string(status), By: "rita", Reason: "fine"}})
		}
		switch what {
		case "approved", "denied":
			verdict(audit.KindVerdict, approval.Status(what))
		case "claimed":
			verdict(audit.KindVerdict, approval.Approved)
			verdict(audit.KindClaim, approval.Claimed)
		case "withdrawn":
			verdict(audit.KindWithdraw, approval.Withdrawn)
		}
	}
	var v api.SessionView
	brokertest.Must(t, w.ask(w.alice, api.PathSessions+"/"+string(s.State.Session), &v))
	if len(v.Commands) != 8 || v.Count != 8 || v.Commands[0].Result == nil || v.Commands[0].Result.Masked["email"] != 3 || v.Commands[1].Result != nil || v.Commands[1].Decision.Rule != "no-destructive" {
		t.Fatalf("%+v", v)
	}
	for _, c := range v.Commands[2:] {
		what := strings.TrimPrefix(c.Text, "update ")
		if a := c.Approval; a == nil || a.Status != what || a.ID != held[what].Decision.Approval || a.Link == "" || (what == "denied") != (a.By == "rita" && a.Status == "denied") {
			t.Errorf("%s: %+v", what, c.Approval)
		}
	}
	p := w.as("alice").get("/sessions/" + string(s.State.Session))
	for _, want := range []string{"select 1", "3 × email masked", "SELECT 1, 1 row", "no-destructive", "prod-write", "by rita: fine", "claimed"} {
		if !p.says(want) {
			t.Errorf("no %q in %s", want, p.text())
		}
	}
}

// Once the data key is destroyed the exact texts are gone, the session is not.
func TestShreddedSession(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	w.audit(w.command(s, "select 'secret'", allowed))
	rec, it, err := session.Get(t.Context(), w.DB, s.State.Session)
	brokertest.Must(t, err)
	rec.State = "shredded"
	put, err := session.Put(rec, store.Cond{Version: it.Version})
	brokertest.Must(t, err)
	brokertest.Must(t, w.DB.Put(t.Context(), put))
	var v api.SessionView
	brokertest.Must(t, w.ask(w.alice, api.PathSessions+"/"+string(rec.ID), &v))
	if len(v.Commands) != 1 || v.Commands[0].Text != "normalised select 'secret'" {
		t.Errorf("%+v", v)
	}
}

func TestLongSessionsCostWhatTheyMust(t *testing.T) {
	c := &counting{count: map[string]int{}}
	w := newWorld(t, func(i store.Items) store.Items { c.Items = i; return c })
	s := w.Seed(w.agent, w.alice, "app")
	w.audit(w.command(s, "select 'first'", allowed))
	w.Advance(5*time.Hour + 30*time.Minute)
	w.audit(w.command(s, "select 'late'", allowed))
	w.Advance(30 * time.Minute)
	w.alice.Edit(func(r *token.Root) { r.RenewedUntil = w.Now().Add(time.Hour) })
	w.alice.Renew()
	v := w.as("alice")
	path := "/sessions/" + string(s.State.Session)
	c.take()
	p := v.get(path)
	if got := c.take()[store.Audit]; got > 60 || !p.says("select 'first'") || p.says("select 'late'") {
		t.Errorf("the first hour: %d queries, %s", got, p.text())
	}
	seen := false
	for range 8 {
		_, rest, more := strings.Cut(p.body, `">Later`)
		if !more {
			break
		}
		_ = rest
		at := strings.LastIndex(p.body[:strings.Index(p.body, `">Later`)], `href="`)
		p = v.get(strings.ReplaceAll(p.body[at+6:strings.Index(p.body, `">Later`)], "&amp;", "&"))
		if p.status != 200 || c.take()[store.Audit] > 60 {
			t.Fatalf("%d", p.status)
		}
		seen = seen || p.says("select 'late'")
	}
	if !seen || !strings.Contains(p.body, `">Earlier`) {
		t.Errorf("the later commands are on no page: %s", p.text())
	}
	for _, from := range []string{"x", "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"} {
		if p := v.get(path + "?from=" + from); p.status != 400 {
			t.Errorf("from %s: %d", from, p.status)
		}
	}
	var all api.SessionView
	brokertest.Must(t, w.ask(w.alice, "/api"+path, &all))
	if got := c.take()[store.Audit]; len(all.Commands) != 2 || got > 6*60+10 {
		t.Errorf("%d commands for %d queries", len(all.Commands), got)
	}
	// A closed session is complete with its last command: nothing more is asked for.
	rec, it, err := session.Get(t.Context(), w.DB, s.State.Session)
	brokertest.Must(t, err)
	rec.Status, rec.Closed, rec.LastSeq = session.Closed, w.Now(), 1
	put, err := session.Put(rec, store.Cond{Version: it.Version})
	brokertest.Must(t, err)
	brokertest.Must(t, w.DB.Put(t.Context(), put))
	brokertest.Must(t, w.ask(w.alice, "/api"+path, &all))
	if got := c.take()[store.Audit]; got > 16 {
		t.Errorf("a closed session: %d queries", got)
	}
}

// crowd answers for a minute of evidence that is too full to read.
type crowd struct {
	store.Items
	entry audit.Entry
	pages *int
}

func (c crowd) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	if table != store.Audit || pk != audit.MinuteOf(c.entry.Time) {
		return c.Items.Query(ctx, table, pk, prefix, cursor, limit)
	}
	*c.pages++
	p := store.Page{Cursor: cursor + "x"}
	for i := range limit {
		e := c.entry
		e.Seq = uint64(*c.pages*limit + i)
		put, err := audit.Put(e)
		if err != nil {
			return store.Page{}, err
		}
		p.Items = append(p.Items, put.Item)
	}
	return p, nil
}

func TestDenialsAreBounded(t *testing.T) {
	c := &crowd{pages: new(int)}
	w := newWorld(t, func(i store.Items) store.Items { c.Items = i; return c })
	s := w.Seed(w.agent, w.alice, "app")
	c.entry = w.command(s, "drop table "+strings.Repeat("x", 1000), denyBy("no-destructive"))
	v := w.as("alice")
	p := v.get("/")
	if n := strings.Count(p.body, "no-destructive"); n != 30 || *c.pages > 2*20 || !p.says("There is more than this page reads") || len(p.body) > 64<<10 {
		t.Errorf("%d denials from %d pages, %d bytes", n, *c.pages, len(p.body))
	}
	// A minute that is over for good is read once.
	w.Advance(4 * time.Minute)
	v.get("/live")
	*c.pages = 0
	w.Advance(2 * time.Second)
	if p := v.get("/live"); *c.pages != 0 || strings.Count(p.body, "no-destructive") != 30 {
		t.Errorf("%d pages again", *c.pages)
	}
	w.Advance(15 * time.Minute)
	if p := v.get("/live"); strings.Contains(p.body, "no-destructive") {
		t.Error("old denials stay")
	}
}

// A session that is too long for one answer says so.
func TestSessionViewIsBounded(t *testing.T) {
	c := &crowd{pages: new(int)}
	w := newWorld(t, func(i store.Items) store.Items { c.Items = i; return c })
	s := w.Seed(w.agent, w.alice, "app")
	c.entry = w.command(s, "select 1", allowed)
	ids := &renamed{Items: c, w: w}
	*c.pages = 0
	h := w.newHandler(ids)
	v := w.as("alice")
	r := httptest.NewRequest(http.MethodGet, "/sessions/"+string(s.State.Session), nil)
	for _, k := range v.client.Jar.Cookies(v.get("/").url) {
		r.AddCookie(k)
	}
	rec := httptest.NewRecorder()
	*c.pages = 0
	h.ServeHTTP(rec, r)
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), "more commands than one page has room for") || *c.pages > 21 {
		t.Errorf("%d from %d pages", rec.Code, *c.pages)
	}
}

// renamed gives each command of a crowd an id of its own.
type renamed struct {
	store.Items
	w *world
}

func (r *renamed) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	p, err := r.Items.Query(ctx, table, pk, prefix, cursor, limit)
	for i, it := range p.Items {
		var es []audit.Entry
		if table != store.Audit || json.Unmarshal(it.Body, &es) != nil {
			continue
		}
		es[0].ID = fmt.Sprintf("%s%016d", es[0].ID[:10], es[0].Seq)
		body, merr := json.Marshal(es)
		p.Items[i].Body, err = body, errors.Join(err, merr)
	}
	return p, err
}

// What an answer of the API has no room for is left out, the oldest first.
func TestApprovalsFitAnAnswer(t *testing.T) {
	w := newWorld(t)
	var last access.ApprovalID
	for range 20 {
		last = w.hold(w.alice, func(r *approval.Record) { r.Text = strings.Repeat("x", 300_000) }).ID
		w.Advance(time.Second)
	}
	var as []api.ApprovalView
	brokertest.Must(t, w.ask(w.alice, api.PathApprovals, &as))
	if len(as) < 10 || len(as) > 14 || as[0].ID != last {
		t.Errorf("%d approvals", len(as))
	}
	var ss []api.SessionView
	for range 3 {
		w.Seed(w.agent, w.alice, "app")
	}
	if err := w.ask(w.alice, api.PathSessions+"?limit=2", &ss); err != nil || len(ss) != 2 {
		t.Errorf("%v, %d sessions", err, len(ss))
	}
}

func TestJSONFaults(t *testing.T) {
	w := newWorld(t)
	s, rec := w.Seed(w.agent, w.alice, "app"), w.hold(w.alice)
	for _, path := range []string{api.PathSessions, api.PathActors, api.PathApprovals, api.PathSessions + "/" + string(s.State.Session), api.PathApprovals + "/" + string(rec.ID)} {
		for n := 1; ; n++ {
			count := 0
			w.Faults.Set(func(string, string) storetest.Fault {
				if count++; count == n {
					return storetest.NotApplied
				}
				return storetest.None
			})
			var out any
			err := w.ask(w.alice, path, &out)
			w.Faults.Set(nil)
			if count < n {
				break
			}
			if e := (*api.Error)(nil); !errors.As(err, &e) || e.Status() < 500 {
				t.Errorf("%s, call %d: %v", path, n, err)
			}
		}
	}
}

// However many look, the stores are asked once a second.
func TestLivePagesShareOneLook(t *testing.T) {
	c := &counting{count: map[string]int{}}
	w := newWorld(t, func(i store.Items) store.Items { c.Items = i; return c })
	w.Seed(w.agent, w.child(w.alice, "coder", "code"), "app")
	var vs []*visitor
	for _, u := range []string{"alice", "adam", "rita"} {
		vs = append(vs, w.as(u))
	}
	w.Advance(2 * time.Second)
	c.take()
	var wg sync.WaitGroup
	for _, v := range append(vs, vs...) {
		wg.Go(func() {
			if p := v.get("/live"); p.status != 200 || strings.Contains(p.body, "<html") {
				t.Errorf("%d", p.status)
			}
		})
	}
	wg.Wait()
	got := c.take()
	if got[store.Approvals] != 4 || got[store.Registry] != 2 || got[store.Audit] > 17 {
		t.Errorf("%v queries", got)
	}
}

func TestLivePage(t *testing.T) {
	w := newWorld(t)
	p := w.as("rita").get("/")
	for _, want := range []string{"Nothing waits", "Nobody is logged in", "None in the last 15 minutes", "None yet"} {
		if !p.says(want) {
			t.Errorf("no %q in %s", want, p.text())
		}
	}
	if !strings.Contains(p.body, `<noscript><meta http-equiv="refresh"`) {
		t.Error("it does not reload itself without scripting")
	}
	if p := w.visitor().get("/live"); p.status != http.StatusUnauthorized {
		t.Errorf("%d", p.status)
	}
}
