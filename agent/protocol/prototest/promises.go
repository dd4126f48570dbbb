package prototest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
)

// 1: when the broker stores the entry, nothing of the command is on its way; afterwards it is.
func entryFirst(t T, f *Fixture, m mutation) {
	h := open(t, f, m)
	defer h.close()
	text := mark("first")
	early, stored := false, false
	h.broker.onStore = func(c access.Command) {
		if strings.Contains(c.Text, text) {
			early, stored = early || h.reached(text), true
		}
	}
	h.greet()
	h.send(f.Wire.Run(text))
	h.answered() // a mutant may get none
	switch {
	case early:
		t.Fatalf("the command went to the target before its entry was stored")
	case !stored:
		t.Fatalf("the broker was never asked for the command")
	case !h.reached(text):
		t.Fatalf("control: an allowed command's text never went to the target")
	}
}

// 2: neither on the wire to the target nor in its own log.
func deniedStays(t T, f *Fixture, m mutation) {
	h := open(t, f, m)
	defer h.close()
	h.greet()
	text, good := mark(denyMark), mark("allowed")
	h.send(f.Wire.Run(text))
	h.answered()
	if h.reached(text) || h.reached(denyMark) {
		t.Fatalf("text of a denied command went to the target")
	}
	h.next("denied command", f.Wire.Answer)
	if answer := h.ask(f.Wire.Run(good)); !f.Wire.Succeeded(answer) {
		t.Fatalf("control: an allowed command failed: %q", answer)
	}
	if !f.Seen(good) {
		t.Fatalf("control: the target's log does not hold an allowed command")
	}
	if f.Seen(text) || h.reached(text) {
		t.Fatalf("text of a denied command went to the target")
	}
}

// 3: an error in the protocol's frame, with the detail that programs read, after which the session goes on.
func nativeDenial(t T, f *Fixture, m mutation) {
	h := open(t, f, m)
	defer h.close()
	h.greet()
	answer := h.ask(f.Wire.Run(mark(denyMark)))
	detail, ok := f.Wire.Refused(answer)
	if !ok {
		t.Fatalf("a denial was answered %q, which is no error of the protocol", answer)
	}
	var d access.Denied
	if err := json.Unmarshal([]byte(detail), &d); err != nil || d.Code != access.CodeDenied || d.Rule != denyRule || d.Hint != denyHint {
		t.Fatalf("the detail of a denial is %q (%v)", detail, err)
	}
	h.lives()
}

// gateFunc is a gate made of one function.
type gateFunc func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error)

func (g gateFunc) Check(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
	return g(ctx, cmds, held)
}

// 4: whatever keeps a decision from being there in time.
func noDecision(t T, f *Fixture, m mutation) {
	with := func(wrap func(inner protocol.Gate) gateFunc) setting {
		return func(_ *house, s *protocol.Session) { s.Gate = wrap(s.Gate) }
	}
	answer := func(fail func(context.Context, api.CheckRequest) (api.CheckResponse, error)) setting {
		return func(h *house, _ *protocol.Session) { h.broker.fail = fail }
	}
	cases := map[string]setting{
		"gate error": with(func(protocol.Gate) gateFunc {
			return func(context.Context, []access.Command, func(access.HeldCommand)) ([]*gate.Permit, error) {
				return nil, errors.New("broken")
			}
		}),
		"gate without permits": with(func(protocol.Gate) gateFunc {
			return func(context.Context, []access.Command, func(access.HeldCommand)) ([]*gate.Permit, error) {
				return nil, nil
			}
		}),
		"gate with empty permits": with(func(protocol.Gate) gateFunc {
			return func(_ context.Context, cmds []access.Command, _ func(access.HeldCommand)) ([]*gate.Permit, error) {
				ps := make([]*gate.Permit, len(cmds))
				for i := range ps {
					ps[i] = new(gate.Permit)
				}
				return ps, nil
			}
		}),
		"late permit": with(func(inner protocol.Gate) gateFunc {
			return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
				ps, err := inner.Check(ctx, cmds, held)
				time.Sleep(api.PermitLife + time.Millisecond) // real time: a permit's age is on the real clock. A room may ask again, once
				return ps, err
			}
		}),
		"unreachable": answer(func(context.Context, api.CheckRequest) (api.CheckResponse, error) {
			return api.CheckResponse{}, errors.New("connection refused")
		}),
		"timeout": answer(func(ctx context.Context, _ api.CheckRequest) (api.CheckResponse, error) {
			<-ctx.Done()
			return api.CheckResponse{}, ctx.Err()
		}),
		"answer to something else": answer(func(_ context.Context, r api.CheckRequest) (api.CheckResponse, error) {
			return api.CheckResponse{Answers: []api.Answer{{Session: "OTHER"}}}, nil
		}),
	}
	if m != nil { // a mutant is caught by the quick cases
		delete(cases, "late permit")
		delete(cases, "timeout")
	}
	var wg sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		wg.Go(func() { undecided(t, f, m, name, cases[name]) })
	}
	wg.Wait()
}

// undecided collects failures by Errorf only: it runs beside others.
func undecided(t T, f *Fixture, m mutation, name string, set setting) {
	w := &wish{ctx: t.Context()}
	w.run(func() {
		h := open(w, f, m, set)
		defer h.close()
		h.patience = unpunctual
		h.greet()
		text := mark("undecided")
		answer := h.ask(f.Wire.Run(text))
		if h.reached(text) || f.Seen(text) {
			w.Fatalf("the command went to the target without a decision")
		}
		detail, ok := f.Wire.Refused(answer)
		var d access.Denied
		if err := json.Unmarshal([]byte(detail), &d); !ok || err != nil || d.Code != access.CodeNoDecision {
			w.Fatalf("without a decision the client was answered %q", answer)
		}
	})
	for _, s := range w.failures {
		t.Errorf("%s: %s", name, s)
	}
}

// 5: by no way that an answer has.
func protectedStays(t T, f *Fixture, m mutation) {
	h := open(t, f, nil, func(h *house, _ *protocol.Session) { h.broker.bare = true })
	h.greet()
	answer := h.ask(f.Wire.Reveal())
	h.close()
	if !bytes.Contains(answer, []byte(f.Protected)) {
		t.Fatalf("control: the protected value is not where it should be: %q", answer)
	}
	h = open(t, f, m)
	h.greet()
	answer = h.ask(f.Wire.Reveal())
	if !f.Refuses && !f.Wire.Succeeded(answer) {
		t.Errorf("control: reading a masked value plainly fails: %q", answer)
	}
	h.close()
	if h.received(f.Protected) {
		t.Fatalf("the protected value reached the client")
	}
	leaks := f.Wire.Leaks()
	for _, name := range slices.Sorted(maps.Keys(leaks)) {
		h := open(t, f, m)
		h.greet()
		h.send(leaks[name])
		h.answered() // or the session ends
		h.close()
		if h.received(f.Protected) || bytes.Contains(h.log.bytes(), []byte(f.Protected)) {
			t.Errorf("the protected value reached the client or the log by %s", name)
		}
	}
}

// 6: not on a good day, and not when the login fails or the target is not there.
func credentialStays(t T, f *Fixture, m mutation) {
	const wrong = "wrong-canary-7d1e"
	for name, c := range map[string]struct {
		secret string
		set    setting
	}{
		"good login": {f.Login.Password.Reveal(), func(*house, *protocol.Session) {}},
		"bad login": {wrong, func(_ *house, s *protocol.Session) {
			s.Login.Password = secret.New(wrong)
		}},
		"no target": {f.Login.Password.Reveal(), func(h *house, _ *protocol.Session) {
			h.tap.dial = nobody
		}},
	} {
		h := open(t, f, m, c.set)
		h.send(f.Wire.Greeting())
		ready := h.await(func(b []byte) bool { n, ok := f.Wire.Ready(b); h.read = n; return ok })
		if ready != (name == "good login") {
			t.Errorf("control: %s: the session opens: %v", name, ready)
		}
		if ready {
			h.send(f.Wire.Run(mark(denyMark)))
			h.answered()
		}
		h.close()
		if h.received(c.secret) {
			t.Errorf("%s: the credential reached the client", name)
		}
		if bytes.Contains(h.log.bytes(), []byte(c.secret)) {
			t.Errorf("%s: the credential reached the log", name)
		}
	}
}

// commandID is what differs between two answers to the same command.
var commandID = regexp.MustCompile(`0[0-9A-HJKMNP-TV-Z]{25}`)

// 7: the same commands, each in one write, byte by byte, and all in one write, get the same answers.
func anyCut(t T, f *Fixture, m mutation) {
	var script [][]byte
	for range 3 {
		script = append(script, f.Wire.Run("samemark"), f.Wire.Run(denyMark+"same"), f.Wire.Reveal())
	}
	script = append(script, f.Wire.Run("lastmark"))
	greeting := f.Wire.Greeting()
	all := bytes.Join(script, nil)
	answers := func(how string, send func(h *house)) []byte {
		h := open(t, f, m)
		defer h.close()
		sent := make(chan struct{})
		go func() { defer close(sent); send(h) }()
		defer func() { _ = h.client.Close(); <-sent }()
		h.next(how+": greeting", f.Wire.Ready)
		from := h.read
		for i := range script {
			h.next(fmt.Sprintf("%s: command %d", how, i), f.Wire.Answer)
		}
		return commandID.ReplaceAll(h.got.bytes()[from:h.read], []byte("ID"))
	}
	want := answers("one by one", func(h *house) {
		h.send(greeting)
		for _, b := range script {
			h.send(b)
		}
	})
	for how, send := range map[string]func(h *house){
		"byte by byte": func(h *house) {
			for _, b := range append(slices.Clone(greeting), all...) {
				h.send([]byte{b})
			}
		},
		"ten in one write": func(h *house) { h.send(greeting); h.send(all) },
	} {
		if got := answers(how, send); !bytes.Equal(got, want) {
			i := 0
			for i < min(len(got), len(want)) && got[i] == want[i] {
				i++
			}
			t.Errorf("%s: the answers differ at byte %d: got %.100q, want %.100q", how, i, got[i:], want[i:])
		}
	}
}

// 8: whatever is going on, also while a command is held; the target's connection, the client's and every goroutine go.
func cancelEnds(t T, f *Fixture, m mutation) {
	for _, c := range []struct {
		name  string
		doing func(h *house)
		gone  bool // the client goes, instead of a cancel from inside
	}{
		{"before the greeting", func(*house) {}, false},
		{"idle", func(h *house) { h.greet() }, false},
		{"held", held, false},
		{"held, client gone", held, true},
		{"running", running, false},
		{"running, client gone", running, true},
	} {
		cancelled(t, f, m, c.name, c.doing, c.gone)
	}
}

func cancelled(t T, f *Fixture, m mutation, name string, doing func(h *house), gone bool) {
	before := goleak.IgnoreCurrent()
	h := open(t, f, m)
	defer func() {
		h.close()
		if err := goleak.Find(before); err != nil {
			t.Errorf("%s: goroutines are left: %v", name, err)
		}
	}()
	doing(h)
	if gone {
		_ = h.client.Close()
	} else {
		h.cancel(&access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "over"})
	}
	if !h.ended() {
		t.Fatalf("%s: the room does not end", name)
	}
	if n := h.tap.open(); n != 0 {
		t.Errorf("%s: %d connections to the target stay open", name, n)
	}
	_ = h.client.SetWriteDeadline(time.Now().Add(ending))
	if _, err := h.client.Write([]byte{0}); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the client's connection stays open", name)
	}
	h.gate.Close(t.Context()) // waits for withdrawals
	if strings.HasPrefix(name, "held") && h.broker.withdrawals() != 1 {
		t.Errorf("%s: the held command was withdrawn %d times", name, h.broker.withdrawals())
	}
}

func held(h *house) {
	h.t.Helper()
	h.greet()
	h.send(h.f.Wire.Run(mark(holdMark)))
	select {
	case <-h.broker.held:
	case <-time.After(patience):
		h.t.Fatalf("control: the command is not held")
	}
}

func running(h *house) {
	h.t.Helper()
	h.greet()
	text := mark("slow")
	h.send(h.f.Wire.Slow(text))
	for late := time.Now().Add(patience); !h.f.Seen(text); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			h.t.Fatalf("control: the command does not run")
		}
	}
}

// 9: in the protocol's words where it has any, and never by passing it on.
func unknownRefused(t T, f *Fixture, m mutation) {
	h := open(t, f, m)
	defer h.close()
	h.greet()
	text := mark("unknown")
	h.send(f.Wire.Unknown(text))
	h.send(f.Wire.Run(mark("behind")))
	h.await(func(b []byte) bool { return len(b) > h.read }) // or it ends without a word
	if h.reached(text) {
		t.Fatalf("an unknown message went to the target")
	}
	whole := func(b []byte) (int, bool) { return len(b), len(b) > 0 }
	answer := h.next("unknown message", whole)
	if _, ok := f.Wire.Refused(answer); !ok {
		t.Errorf("an unknown message was answered %q", answer)
	}
	h.ended() // or it goes on: what counts is what went to the target
	if h.reached(text) {
		t.Errorf("an unknown message went to the target")
	}
}

// 10: refused by its length alone, without the rest and without room for it.
func oversizedRefused(t T, f *Fixture, m mutation) {
	const most = 32 << 20
	h := open(t, f, m)
	defer h.close()
	h.greet()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h.send(f.Wire.Oversized())
	whole := func(b []byte) (int, bool) { return len(b), len(b) > 0 }
	answer := h.next("over-long message", whole)
	runtime.ReadMemStats(&after)
	if _, ok := f.Wire.Refused(answer); !ok {
		t.Errorf("an over-long message was answered %q", answer)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > most {
		t.Errorf("%d bytes were allocated for an over-long message", grown)
	}
}
