package approve_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/brokertest"
)

// patience is how long a page may take on a machine that is busy otherwise.
const patience = 20 * time.Second

// chromium starts one browser for a test. A machine without one fails it: what a reviewer clicks is not skipped.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("no Chromium on this machine: install the package chromium")
	}
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun}
	for _, f := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"} {
		opts = append(opts, chromedp.Flag(f, true))
	}
	if os.Geteuid() == 0 { // its sandbox does not work for root
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Log(err) // only about tidying up
		}
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// tab is one visitor's browser context, and what went on in it.
type tab struct {
	w   *world
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []string
	stopped  int // requests that the policy stopped
	console  []string
}

// look is how a visitor looks: the width of the window, and whether pages may run scripts.
type look struct {
	width    int64
	scripted bool
	dark     bool
}

func (w *world) tab(browser context.Context, t *testing.T, l look) *tab {
	t.Helper()
	b := &tab{w: w, t: t}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(b.hear))
	t.Cleanup(cancel)
	b.ctx = ctx
	brokertest.Must(t, chromedp.Do(ctx)) // the tab lives as long as the context of its first action
	b.must(chromedp.EmulateViewport(l.width, 800, func(m *emulation.SetDeviceMetricsOverrideParams, _ *emulation.SetTouchEmulationEnabledParams) {
		m.Mobile = l.width < 600
	}))
	if !l.scripted {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		brokertest.Must(t, err)
	}
	if l.dark {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
		brokertest.Must(t, err)
	}
	return b
}

func (b *tab) hear(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := ev.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *network.EventLoadingFailed:
		if e.BlockedReason == network.BlockedReasonCsp {
			b.stopped++
		}
	case *cdplog.EventEntryAdded:
		b.console = append(b.console, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
	case *runtime.EventConsoleAPICalled:
		b.console = append(b.console, "console call: "+string(e.Type))
	case *runtime.EventExceptionThrown:
		b.console = append(b.console, "exception: "+e.ExceptionDetails.Text)
	}
}

func (b *tab) must(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	run(b, chromedp.Steps(steps...))
}

// run is one action, within patience.
func run[T any](b *tab, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Fatalf("%v; requests %q; console %q", err, b.requests, b.console)
	}
	return v
}

// loads runs steps that lead to another page, and waits until it is there.
func (b *tab) loads(want int64, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	res, err := chromedp.RunResponse(ctx, steps...)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.Status != want {
		b.t.Errorf("%s: status %d, want %d", res.URL, res.Status, want)
	}
}

func (b *tab) text() string {
	b.t.Helper()
	return run(b, chromedp.Text(chromedp.CSS("body")))
}

func (b *tab) has(words ...string) {
	b.t.Helper()
	text := b.text()
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			b.t.Errorf("no %q in\n%s", w, text)
		}
	}
}

func (b *tab) open(path string) {
	b.t.Helper()
	b.must(chromedp.Navigate(b.w.pages.URL + path))
}

func (b *tab) login(user string) {
	b.t.Helper()
	b.must(chromedp.SendKeys(chromedp.CSS("input[name=username]"), user), chromedp.SendKeys(chromedp.CSS("input[name=password]"), user+"'s"))
	b.loads(200, chromedp.Click(chromedp.CSS("button")))
}

// fits says that nothing is wider than the window.
func (b *tab) fits() {
	b.t.Helper()
	wide := run(b, chromedp.Evaluate[[]int64](`[document.documentElement.scrollWidth, document.documentElement.clientWidth]`))
	if wide[0] > wide[1] {
		b.t.Errorf("%s is %d wide in a window of %d", run(b, chromedp.Location()), wide[0], wide[1])
	}
}

// kept says that nothing but the two servers of the test was asked for, and that no policy was broken and no script failed. refused
// are the pages whose refusal the console may tell.
func (b *tab) kept(refused ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) == 0 {
		b.t.Error("no request was seen at all")
	}
	for _, r := range b.requests {
		if !strings.HasPrefix(r, b.w.pages.URL+"/") && !strings.HasPrefix(r, b.w.op.URL+"/") {
			b.t.Errorf("a request to %s", r)
		}
	}
	for _, c := range b.console {
		known := strings.Contains(c, b.w.op.URL+"/favicon.ico") // the development provider has no icon
		for _, r := range refused {
			known = known || strings.Contains(c, "status of 404") && strings.HasSuffix(c, r)
		}
		if !known {
			b.t.Errorf("the console says %s", c)
		}
	}
}

const longText = "update public.accounts set balance = balance - 30, note = 'a_word_without_any_place_to_break_it_that_is_much_wider_than_a_small_window'\nwhere id = 1"

func (w *world) populate() (access.SessionID, approval.Record) {
	coder := w.child(w.alice, "coder", "fix the billing bug in the invoices service, ticket 4711")
	tester := w.child(coder, "tester", "run the tests")
	w.child(w.alice, "writer", "update the documentation")
	s := w.Seed(w.agent, tester, "app")
	w.audit(w.command(s, "select id, email from customers order by id", access.Decision{Outcome: access.Allow, Rule: "read"}))
	w.audit(w.command(s, longText, denyBy("subagents-read-only")))
	return s.State.Session, w.hold(coder, func(r *approval.Record) { r.Text = longText })
}

func TestInABrowser(t *testing.T) {
	browser := chromium(t)
	for _, l := range []look{{1280, true, false}, {1280, false, false}, {360, true, true}, {360, false, false}} {
		t.Run(fmt.Sprintf("%d scripted=%t", l.width, l.scripted), func(t *testing.T) {
			w := newWorld(t)
			session, rec := w.populate()
			b := w.tab(browser, t, l)
			b.open("/approve/" + string(rec.ID))
			b.fits()
			b.login("rita")
			b.has("wants to run this on app", "balance - 30", "alice", "coder", "ticket 4711", "shop", "prod-write", "Approve once")
			b.fits()
			b.must(chromedp.SendKeys(chromedp.CSS("#reason"), "looks right"))
			b.loads(200, chromedp.Click(chromedp.CSS("button.approve")))
			b.has("Approved by rita", "looks right")
			b.fits()
			if got := w.get(rec.ID); got.Status != approval.Approved || got.By != "rita" || got.Reason != "looks right" {
				t.Errorf("%+v", got)
			}
			b.open("/")
			b.has("Live", "Nothing waits")
			b.fits()
			b.open("/sessions/" + string(session))
			b.has("no such session for you")
			b.fits()
			b.loads(200, chromedp.Click(chromedp.CSS(".who button")))
			b.has("signed out")
			b.kept("/sessions/" + string(session))

			a := w.tab(browser, t, l)
			a.open("/")
			a.login("adam")
			a.has("Who is at work", "coder", "tester", "writer", "subagents-read-only")
			a.fits()
			a.open("/sessions/" + string(session))
			a.has("select id, email from customers", "subagents-read-only")
			a.fits()
			a.kept()
		})
	}
}

// The live page shows what comes without being touched, with and without scripting, and says when it cannot.
func TestLivePageIsLive(t *testing.T) {
	browser := chromium(t)
	for _, scripted := range []bool{true, false} {
		w := newWorld(t)
		b := w.tab(browser, t, look{1280, scripted, false})
		b.open("/")
		b.login("rita")
		b.has("Nothing waits")
		rec := w.hold(w.alice)
		w.Advance(2 * time.Second)
		b.must(chromedp.WaitVisible(chromedp.CSS(fmt.Sprintf(`a[href="/approve/%s"]`, rec.ID))))
		b.kept()
		if scripted {
			b.has("updates itself")
			w.pages.Listener.Close()
			w.pages.CloseClientConnections()
			b.must(chromedp.WaitVisible(chromedp.CSS(".stale")))
			b.has("does not answer")
		}
	}
}

// What the test above relies on can fail: a page that asked for something elsewhere would be stopped, and seen.
func TestTheBrowserHoldsPagesToTheirPolicy(t *testing.T) {
	browser := chromium(t)
	w := newWorld(t)
	b := w.tab(browser, t, look{1280, true, false})
	b.open("/")
	b.login("alice")
	for name, script := range map[string]string{
		"image":  `document.body.insertAdjacentHTML("beforeend", "<img src='http://elsewhere.invalid/x.png'>"); 1`,
		"inline": `document.body.insertAdjacentHTML("beforeend", "<p style='color: red'>x</p>"); 1`,
		"form":   `document.body.insertAdjacentHTML("beforeend", "<form action='http://elsewhere.invalid/' method='post'><button id='away'></button></form>"); document.getElementById("away").click(); 1`,
	} {
		b.mu.Lock()
		b.console = nil
		b.mu.Unlock()
		run(b, chromedp.Evaluate[int](script))
		seen := func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return strings.Contains(strings.Join(b.console, "\n"), "Content Security Policy")
		}
		for deadline := time.Now().Add(patience); !seen() && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
		if !seen() {
			t.Errorf("%s: nothing is said of the policy: %v", name, b.console)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	elsewhere := 0
	for _, r := range b.requests {
		if !strings.HasPrefix(r, w.pages.URL+"/") && !strings.HasPrefix(r, w.op.URL+"/") {
			elsewhere++
		}
	}
	if elsewhere != 1 || b.stopped != 1 { // the image is tried and stopped, the form is not even tried
		t.Errorf("%d requests elsewhere, %d stopped: %q", elsewhere, b.stopped, b.requests)
	}
}
