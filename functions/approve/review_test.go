package approve_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/functions/approve"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

var signOutShape = regexp.MustCompile(`class="who".*\n.*name="form" value="([^"]+)"`)

func serve(h http.Handler, method, target string, body *strings.Reader) *httptest.ResponseRecorder {
	var r *http.Request
	if body == nil {
		r = httptest.NewRequest(method, target, nil)
	} else {
		r = httptest.NewRequest(method, target, body)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

func TestReviewPageShowsWhatWouldRun(t *testing.T) {
	w := newWorld(t)
	coder := w.child(w.alice, "coder", "fix <the> bill\u202e")
	rec := w.hold(coder, func(r *approval.Record) { r.Text = "select 1;\n\n\n-- \u202edrop" })
	_, p := w.reviewing("rita", rec.ID)
	if _, hers := w.reviewing("alice", rec.ID); strings.Contains(p.body, `http-equiv="refresh"`) || !strings.Contains(hers.body, `http-equiv="refresh"`) {
		t.Error("a form reloads itself, or what waits does not")
	}
	for _, want := range []string{"coder", "wants to run this on app", "alice", "fix <the> bill⟨U+202E⟩", "shop", "public.accounts", "balance, id", "prod-write", "30 min left",
		"U+202Edrop", "4 lines", "characters that show nothing", string(rec.Session), "Approve once", "Deny"} {
		if !p.says(want) {
			t.Errorf("no %q in %s", want, p.text())
		}
	}
	if strings.ContainsRune(p.body, '\u202e') || strings.Contains(p.body, "<the>") || strings.Count(p.body, `class="ln"`) != 4 {
		t.Error(p.body)
	}
}

func TestParametersAndTimeLeft(t *testing.T) {
	w := newWorld(t)
	for left, want := range map[time.Duration]string{90 * time.Second: "1 min left", 30 * time.Second: "30 s left", 5 * time.Hour: "5 h left"} {
		rec := w.hold(w.alice, func(r *approval.Record) {
			r.Expires = w.Now().Add(left)
			r.Params = []access.Param{{Null: true}, {Value: []byte("grün\u202e\x00\xff")}, {Value: []byte("NULL")}}
		})
		_, p := w.reviewing("rita", rec.ID)
		if !p.says(want) || !strings.Contains(p.text(), `NULL"gr\u00fcn\u202e\x00\xff""NULL"`) {
			t.Errorf("%s: %s", left, p.text())
		}
	}
}

func TestWhoMaySeeAnApproval(t *testing.T) {
	w := newWorld(t)
	rec := w.hold(w.child(w.alice, "coder", "x"))
	missing := "/approve/" + w.ID()
	for user, want := range map[string]struct {
		status int
		words  string
		form   bool
	}{
		"rita":  {200, "Your verdict", true},
		"alice": {200, "nobody reviews a command of their own", false},
		"adam":  {200, "in none of the groups that review", false},
		"eve":   {404, "no such approval for you", false},
	} {
		v, p := w.reviewing(user, rec.ID)
		if p.status != want.status || !p.says(want.words) || (formOf(p) != "") != want.form {
			t.Errorf("%s: %d %s", user, p.status, p.text())
		}
		if user == "eve" {
			if q := v.get(missing); q.status != 404 || strings.ReplaceAll(q.body, missing, "/approve/"+string(rec.ID)) != p.body {
				t.Errorf("what is there looks unlike what is not: %s", q.text())
			}
			if q := v.get("/approve/" + string(rec.ID) + "?login=1"); !strings.HasPrefix(q.url.String(), w.op.URL) {
				t.Errorf("eve cannot sign in as somebody else: %s", q.url)
			}
		}
	}
}

// Mail scanners, previews and impatient people: whoever only looks changes nothing.
func TestLookingChangesNothing(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	rec := w.hold(w.alice)
	_, fresh := w.reviewing("rita", rec.ID)
	rita, _ := w.reviewing("rita", rec.ID)
	rows := w.rows()
	for _, v := range []*visitor{w.visitor(), rita} {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			for _, target := range []string{"/", "/live", "/signin", "/callback", "/signout", "/approve/" + string(rec.ID), "/approve/" + string(rec.ID) + "?login=1",
				"/approve/" + string(rec.ID) + "?verdict=approve&form=" + url.QueryEscape(formOf(fresh)), "/sessions/" + string(s.State.Session), "/assets/style.css",
				"/api/approvals", "/api/sessions", "/api/actors", "/approve/x", "/nowhere"} {
				p := v.stop().do(method, target, nil)
				if p.status >= 500 {
					t.Errorf("%s %s: %d", method, target, p.status)
				}
				if method == "HEAD" && len(p.header.Values("Set-Cookie")) > 0 {
					t.Errorf("HEAD %s sets %v", target, p.header.Values("Set-Cookie"))
				}
			}
		}
	}
	if w.rows() != rows || w.get(rec.ID).Status != approval.Pending {
		t.Error("something was stored")
	}
}

func TestVerdict(t *testing.T) {
	for word, want := range map[string]approval.Status{"approve": approval.Approved, "deny": approval.Denied} {
		w := newWorld(t)
		rec := w.hold(w.alice)
		v, p := w.reviewing("rita", rec.ID)
		p = v.do("POST", "/approve/"+string(rec.ID), url.Values{"form": {formOf(p)}, "verdict": {word}, "reason": {"ticket 4711, grün"}})
		if p.status != 200 || p.url.Path != "/approve/"+string(rec.ID) || !p.says("by rita") || !p.says("ticket 4711, grün") || formOf(p) != "" {
			t.Errorf("%s: %d %s", word, p.status, p.text())
		}
		got := w.get(rec.ID)
		if got.Status != want || got.By != "rita" || got.Reason != "ticket 4711, grün" || !got.DecidedAt.Equal(w.Now()) || got.AuthTime.IsZero() {
			t.Errorf("%+v", got)
		}
		es := w.verdicts(rec.ID)
		if len(es) != 1 || es[0].ID != string(rec.Command) || es[0].Approval.Digest != rec.Digest || es[0].Approval.Status != string(want) || es[0].Approval.By != "rita" ||
			es[0].Session != rec.Session || es[0].Seq != rec.Seq || !es[0].Approval.Auth.Equal(got.AuthTime) {
			t.Errorf("%+v", es)
		}
	}
}

func TestVerdictRefuses(t *testing.T) {
	type at struct {
		w    *world
		v    *visitor
		rec  approval.Record
		form url.Values
	}
	for _, c := range []struct {
		name   string
		user   string // rita
		edit   func(*at)
		status int
		words  string
	}{
		{name: "nobody signed in", edit: func(a *at) { a.v = a.w.visitor() }, status: 401, words: "nobody is signed in"},
		{name: "the requester", user: "alice", status: 403, words: "nobody reviews a command of their own"},
		{name: "an auditor", user: "adam", status: 403, words: "none of the groups"},
		{name: "somebody else", user: "eve", status: 404, words: "no such approval"},
		{name: "no form token", edit: func(a *at) { a.form.Del("form") }, status: 403, words: "not of this session"},
		{name: "an empty form token", edit: func(a *at) { a.form.Set("form", "") }, status: 403, words: "not of this session"},
		{name: "two form tokens", edit: func(a *at) { a.form.Add("form", a.form.Get("form")) }, status: 403, words: "not of this session"},
		{name: "another session's form token", edit: func(a *at) { _, p := a.w.reviewing("rita", a.rec.ID); a.form.Set("form", formOf(p)) }, status: 403, words: "not of this session"},
		{name: "the sign-out's form token", edit: func(a *at) { a.form.Set("form", signOutShape.FindStringSubmatch(a.v.get("/").body)[1]) }, status: 403, words: "not of this session"},
		{name: "a page of other bytes", edit: func(a *at) { a.rec.Digest = "other"; a.w.put(a.rec, store.Cond{Version: 1}) }, status: 403, words: "not of this session"},
		{name: "a login for no approval", edit: func(a *at) {
			a.v.signIn("/signin?as=other", "rita")
			a.form.Set("form", a.w.formFor(a.v, a.rec))
		}, status: 401, words: "not made for this approval"},
		{name: "a login for another approval", edit: func(a *at) {
			a.v.signIn("/approve/"+string(a.w.hold(a.w.alice).ID)+"?login=1", "rita")
			a.form.Set("form", a.w.formFor(a.v, a.rec))
		}, status: 401, words: "not made for this approval"},
		{name: "a login that has become old", edit: func(a *at) { a.w.Advance(5*time.Minute + time.Second) }, status: 401, words: "not a fresh one"},
		{name: "a form of another site", edit: func(a *at) { a.v.site = "cross-site" }, status: 403, words: "another site"},
		{name: "a form of another host", edit: func(a *at) { a.v.site = "same-site" }, status: 403, words: "another site"},
		{name: "no verdict", edit: func(a *at) { a.form.Del("verdict") }, status: 400, words: "neither approve nor deny"},
		{name: "two verdicts", edit: func(a *at) { a.form.Add("verdict", "deny") }, status: 400, words: "neither approve nor deny"},
		{name: "an odd verdict", edit: func(a *at) { a.form.Set("verdict", "APPROVE") }, status: 400, words: "neither approve nor deny"},
		{name: "a long reason", edit: func(a *at) { a.form.Set("reason", strings.Repeat("x", approval.MaxReason+1)) }, status: 413, words: "over 500 bytes"},
		{name: "a reason that turns around", edit: func(a *at) { a.form.Set("reason", "x\u202ey") }, status: 400, words: "cannot be shown"},
		{name: "a reason that is no text", edit: func(a *at) { a.form.Set("reason", "x\xff") }, status: 400, words: "cannot be shown"},
		{name: "a large form", edit: func(a *at) { a.form.Set("more", strings.Repeat("x", 20<<10)) }, status: 400, words: "not well formed or too large"},
		{name: "expired", edit: func(a *at) { a.rec.Expires = a.w.Now(); a.w.put(a.rec, store.Cond{Version: 1}) }, status: 409, words: "has expired"},
		{name: "withdrawn", edit: func(a *at) { a.rec.Status = approval.Withdrawn; a.w.put(a.rec, store.Cond{Version: 1}) }, status: 409, words: "was withdrawn already"},
		{name: "answered", edit: func(a *at) { a.rec.Status = approval.Denied; a.w.put(a.rec, store.Cond{Version: 1}) }, status: 409, words: "was denied already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			a := &at{w: w, rec: w.hold(w.alice)}
			user := c.user
			if user == "" {
				user = "rita"
			}
			var p page
			a.v, p = w.reviewing(user, a.rec.ID)
			a.form = url.Values{"form": {formOf(p)}, "verdict": {"approve"}, "reason": {"fine"}}
			if user != "rita" {
				a.form.Set("form", w.formFor(a.v, a.rec))
			} else if formOf(p) == "" {
				t.Fatal("no form")
			}
			if c.edit != nil {
				c.edit(a)
			}
			before := w.get(a.rec.ID)
			p = a.v.do("POST", "/approve/"+string(a.rec.ID), a.form)
			if p.status != c.status || !p.says(c.words) {
				t.Errorf("%d %s, want %d with %q", p.status, p.text(), c.status, c.words)
			}
			if got := w.get(a.rec.ID); got.Status != before.Status || got.By != before.By || len(w.verdicts(a.rec.ID)) != 0 {
				t.Errorf("stored: %+v", got)
			}
		})
	}
}

// formFor is the form token that v's browser would have for rec, had it a form: a refusal must not hang on the token alone.
func (w *world) formFor(v *visitor, rec approval.Record) string {
	u, err := url.Parse(w.pages.URL)
	brokertest.Must(w.t, err)
	form, ok := approve.FormToken(w.StateKey, w.Now(), v.client.Jar.Cookies(u), rec)
	if !ok {
		w.t.Fatal("nobody is signed in")
	}
	return form
}

func TestOfManyVerdictsOneCounts(t *testing.T) {
	w := newWorld(t)
	rec := w.hold(w.alice)
	type try struct {
		v    *visitor
		form url.Values
	}
	var tries []try
	for i := range 6 {
		v, p := w.reviewing([]string{"rita", "rolf"}[i%2], rec.ID)
		tries = append(tries, try{v, url.Values{"form": {formOf(p)}, "verdict": {[]string{"approve", "deny"}[i%2]}}})
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for _, x := range tries {
		wg.Go(func() {
			p := x.v.do("POST", "/approve/"+string(rec.ID), x.form)
			mu.Lock()
			defer mu.Unlock()
			if p.status == 200 {
				won++
			} else if p.status != 409 {
				t.Errorf("%d %s", p.status, p.text())
			}
		})
	}
	wg.Wait()
	if won != 1 || len(w.verdicts(rec.ID)) != 1 || w.get(rec.ID).Status != approval.Status(w.verdicts(rec.ID)[0].Approval.Status) {
		t.Errorf("%d won, %d entries", won, len(w.verdicts(rec.ID)))
	}
}

func TestVerdictFaults(t *testing.T) {
	for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
		w := newWorld(t)
		rec := w.hold(w.alice)
		v, p := w.reviewing("rita", rec.ID)
		form := url.Values{"form": {formOf(p)}, "verdict": {"approve"}}
		w.Faults.Set(storetest.Nth("transact", 1, fault))
		p = v.do("POST", "/approve/"+string(rec.ID), form)
		w.Faults.Set(nil)
		if p.status != 503 || !p.says("not known whether the verdict was stored") || p.says("fault") {
			t.Errorf("%d %s", p.status, p.text())
		}
		stored := w.get(rec.ID).Status == approval.Approved
		if stored != (fault == storetest.Applied) || len(w.verdicts(rec.ID)) != map[bool]int{true: 1}[stored] {
			t.Errorf("%s with %d entries", w.get(rec.ID).Status, len(w.verdicts(rec.ID)))
		}
		p = v.do("POST", "/approve/"+string(rec.ID), form)
		if want := map[bool]int{true: 409, false: 200}[stored]; p.status != want || len(w.verdicts(rec.ID)) != 1 {
			t.Errorf("again: %d %s", p.status, p.text())
		}
	}
}

func TestAnsweredPages(t *testing.T) {
	w := newWorld(t)
	for status, words := range map[approval.Status]string{
		approval.Approved: "Approved by rolf", approval.Denied: "Denied by rolf", approval.Claimed: "and used", approval.Withdrawn: "gave up waiting", approval.Expired: "approved and not used in time",
	} {
		rec := w.hold(w.alice, func(r *approval.Record) {
			r.Status, r.By, r.Reason, r.DecidedAt = status, "rolf", "because", w.Now()
			if status == approval.Expired {
				r.Status, r.Expires = approval.Approved, w.Now()
			}
		})
		_, p := w.reviewing("rita", rec.ID)
		if p.status != 200 || !p.says(words) || !p.says("because") || formOf(p) != "" || p.says("Sign in to answer") {
			t.Errorf("%s: %d %s", status, p.status, p.text())
		}
		if follow := strings.Contains(p.body, `http-equiv="refresh"`); follow != (status == approval.Approved) {
			t.Errorf("%s: reloads itself: %t", status, follow)
		}
	}
}

func TestAnAdministratorsStoreErrorStaysInTheLog(t *testing.T) {
	w := newWorld(t)
	rec := w.hold(w.alice)
	s := w.Seed(w.agent, w.alice, "app")
	alice, rita := w.as("alice"), w.as("rita")
	for _, target := range []string{"/", "/live", "/sessions/" + string(s.State.Session), "/approve/" + string(rec.ID)} {
		for n := 1; ; n++ {
			w.Advance(2 * time.Second) // what is watched is old
			count := 0
			w.Faults.Set(func(string, string) storetest.Fault {
				if count++; count == n {
					return storetest.NotApplied
				}
				return storetest.None
			})
			p := alice.get(target)
			w.Faults.Set(nil)
			if count < n {
				break
			}
			if p.status < 500 || strings.Contains(strings.ToLower(p.text()), "fault") || p.says("sqlite") {
				t.Errorf("%s, call %d: %d %s", target, n, p.status, p.text())
			}
		}
	}
	if !strings.Contains(w.log.String(), "level=ERROR") {
		t.Error("nothing is in the log")
	}
	// A store that does not answer is no permission either.
	w.Faults.Set(func(string, string) storetest.Fault { return storetest.NotApplied })
	p := rita.do("POST", "/approve/"+string(rec.ID), url.Values{"verdict": {"approve"}})
	m := signOutShape.FindStringSubmatch(p.body)
	w.Faults.Set(nil)
	if p.status < 500 || m != nil || w.get(rec.ID).Status != approval.Pending {
		t.Errorf("%d", p.status)
	}
}

func TestHeadersOnEveryAnswer(t *testing.T) {
	w := newWorld(t)
	v := w.as("alice").stop()
	for _, target := range []string{"/", "/live", "/signin", "/callback", "/approve/x", "/nowhere", "/assets/style.css", "/assets/", "/api/approvals", "/sessions/x"} {
		p := v.get(target)
		csp := p.header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'", "script-src 'self'", "style-src 'self'"} {
			if !strings.Contains(csp, part) {
				t.Errorf("%s: no %s in %q", target, part, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") || p.header.Get("X-Content-Type-Options") != "nosniff" ||
			(!strings.HasPrefix(target, "/assets/s") && p.header.Get("Cache-Control") != "no-store") {
			t.Errorf("%s: %v", target, p.header)
		}
		if strings.Contains(p.body, "style=") || strings.Contains(p.body, "<style") || strings.Contains(p.body, "onclick") {
			t.Errorf("%s has what its policy forbids", target)
		}
	}
	if p := v.get("/assets/"); p.status != 404 {
		t.Errorf("assets are listed: %d", p.status)
	}
}
