// Package prototest holds every room to the same ten promises, and shows that each of its tests fails on a room that breaks one.
// It refuses a fixture whose own controls fail: a protected value that is not there, a mark that never travels.
package prototest

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// Fixture is one room and its target.
type Fixture struct {
	Room    func() protocol.Protocol // a fresh one
	Login   protocol.Login           // its password is the credential that must not be seen
	Dial    func(ctx context.Context) (net.Conn, error)
	Classes []access.Class // the protected value is in one of them
	// Protected is a value that lies at the target in a place of a class.
	Protected string
	// Refuses says that the room does not mask: what would show a protected value is refused.
	Refuses bool
	// Client wraps the client's connection where the protocol hides its messages on the way, so that Wire's bytes are what is hidden: one
	// that is written to and read from in Wire's words. Nil where Wire's bytes are what travels. What went to the target is then what Seen says.
	Client func(raw net.Conn) net.Conn
	// Seen says whether the target's own log holds a text.
	Seen func(text string) bool
	Wire Wire
}

// Wire speaks the client's side of the protocol, in bytes. A mark is a short word of letters and digits.
type Wire interface {
	// Greeting opens a connection; Ready is the length of the room's whole answer to it, once it is there.
	Greeting() []byte
	Ready(b []byte) (n int, ok bool)
	// Run is a harmless command whose text, as the target gets it, holds the mark.
	Run(mark string) []byte
	// Answer is the length of the whole answer to one command, once it is there.
	Answer(b []byte) (n int, ok bool)
	Succeeded(answer []byte) bool
	// Refused gives the detail for programs of an error in the protocol's own frame.
	Refused(answer []byte) (detail string, ok bool)
	// Reveal reads the protected value as plainly as the protocol can; Leaks try to get it by every other way that an answer has.
	Reveal() []byte
	Leaks() map[string][]byte
	// Slow runs at the target until it is cancelled, or for a minute.
	Slow(mark string) []byte
	// Unknown is a message that the protocol does not have, holding the mark.
	Unknown(mark string) []byte
	// Oversized is the beginning of a message that says that it is 1 GB long, or as long as the protocol can say.
	Oversized() []byte
}

// T is the part of testing.TB that the promises use, so that a mutant's failures can be wished for.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

type promise struct {
	name string
	keep func(t T, f *Fixture, m mutation)
	// quiet says that it counts goroutines or memory, and wants nobody beside it.
	quiet bool
}

// promises are those of every room, in the order in which the architecture names them.
var promises = []promise{
	{"1 the entry precedes the first byte to the target", entryFirst, false},
	{"2 nothing of a denied command reaches the target", deniedStays, false},
	{"3 a denial is a native error and the session lives", nativeDenial, false},
	{"4 no decision, no command", noDecision, false},
	{"5 a protected value never reaches the client", protectedStays, false},
	{"6 the credential reaches neither client nor log", credentialStays, false},
	{"7 the cut of the input makes no difference", anyCut, false},
	{"8 cancel ends everything", cancelEnds, true},
	{"9 an unknown message is refused", unknownRefused, false},
	{"10 an over-long message is refused before allocation", oversizedRefused, true},
}

// Run holds the room to the promises.
func Run(t *testing.T, f Fixture) {
	for _, p := range promises {
		if p.quiet {
			t.Run(p.name, func(t *testing.T) { p.keep(t, &f, nil) })
		}
	}
	t.Run("beside each other", func(t *testing.T) { // it ends when all of them have
		for _, p := range promises {
			if !p.quiet {
				t.Run(p.name, func(t *testing.T) { t.Parallel(); p.keep(t, &f, nil) })
			}
		}
	})
}

// RunMutants breaks the room in one way after the other and fails where the promise's test does not notice.
func RunMutants(t *testing.T, f Fixture) {
	broken := map[int]bool{}
	for _, m := range mutants {
		broken[m.promise] = true
		p := promises[m.promise-1]
		t.Run(fmt.Sprintf("%d %s", m.promise, m.name), func(t *testing.T) {
			ctx, done := context.WithCancel(t.Context())
			r := &wish{ctx: ctx}
			r.run(func() { p.keep(r, &f, m.mutate) })
			done()
			if len(r.failures) == 0 {
				t.Fatalf("the test of promise %q does not notice", p.name)
			}
			if i := slices.IndexFunc(r.failures, func(s string) bool { return strings.Contains(s, m.says) }); i < 0 {
				t.Errorf("it fails for another reason than %q: %q", m.says, r.failures)
			}
		})
	}
	for i, p := range promises {
		if !broken[i+1] {
			t.Errorf("no mutant breaks promise %q", p.name)
		}
	}
}

// wish collects failures.
type wish struct {
	ctx      context.Context
	mu       sync.Mutex
	failures []string
}

func (w *wish) Helper()                  {}
func (w *wish) Context() context.Context { return w.ctx }

func (w *wish) Errorf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, fmt.Sprintf(format, args...))
}

func (w *wish) Fatalf(format string, args ...any) {
	w.Errorf(format, args...)
	runtime.Goexit()
}

// run waits for do, which may end by Fatalf.
func (w *wish) run(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
}
