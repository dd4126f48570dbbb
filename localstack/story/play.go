package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// player tells the story: what each step expects, and what happened.
type player struct {
	*world
	coder, tester       string // sockets of the actors' hands
	coderRun, testerRun *job
	coderLive           *job // a psql session of coder's that stays open
	testerLive          *job
	approved            string // id of the approval that was used
	steps               int
}

// Play runs the whole story. It returns the first thing that was not as it had to be.
func Play(ctx context.Context, c Config) (err error) {
	started := time.Now()
	w, err := newWorld(ctx, c, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	p := &player{world: w}
	defer p.leave()
	p.say("PostgreSQL is up on %s:%d, its log writes down every statement. Nobody but the agent knows the password of role app.", w.pg.Host, w.pg.Port)
	if err := w.start(ctx); err != nil {
		return err
	}
	p.say("%s is up: broker, relay, identity provider, agent. Console: %s", w.system.name(), w.file.Console)
	for _, s := range p.story() {
		p.steps++
		p.say("\n%d. %s", p.steps, s.title)
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("step %d (%s): %w", p.steps, s.title, err)
		}
	}
	if c.Done != nil {
		if err := c.Done(ctx, p.data); err != nil {
			return err
		}
	}
	p.say("\nEvery step did what it had to, in %.1f s.", time.Since(started).Seconds())
	return nil
}

// step is one of the story's.
type step struct {
	title string
	run   func(context.Context) error
}

// stepRecord is the last step, for which everything stops.
const stepRecord = "The record: sessions, every command, and a proof that nothing was changed or removed"

// story is what is played: all of it everywhere, but what only a deployment has.
func (p *player) story() []step {
	all := []step{
		{"Alice logs in by OIDC (code with PKCE), and gets a token bound to a key", p.login},
		{"sallyport run starts coder, and inside it tester; each with a key of its own and fewer rights", p.actors},
		{"coder reads a table with psql: protected columns come masked, and the database's credential is nowhere in reach", p.read},
		{"tester tries what it must not do: refused natively, the session lives on, and nothing of it reached PostgreSQL", p.denials},
		{"coder changes a protected table: held until a reviewer approves exactly this, once", p.approval},
		{"Alice revokes coder: coder's and tester's next commands are refused", p.revoke},
		{"The broker stops: the gate is closed. It starts again: the gate works", p.outage},
		{stepRecord, p.record},
	}
	if c, ok := p.system.(*cloud); ok {
		update := step{"The stack is updated in place, under a session that goes on", func(ctx context.Context) error { return p.update(ctx, c) }}
		all = slices.Insert(all, len(all)-2, update)
	}
	return all
}

func (p *player) say(format string, args ...any) { _, _ = fmt.Fprintf(p.c.Out, format+"\n", args...) }

// ok writes down one check that held.
func (p *player) ok(format string, args ...any) { p.say("   ok  "+format, args...) }

// show quotes what a person would have seen.
func (p *player) show(out string) {
	for line := range strings.Lines(strings.TrimSpace(out)) {
		p.say("       │ %s", strings.TrimRight(line, "\n"))
	}
}

// check is one expectation.
func check(holds bool, format string, args ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf("expected "+format, args...)
}

// contains expects every piece of text in out.
func contains(out string, pieces ...string) error {
	for _, s := range pieces {
		if !strings.Contains(out, s) {
			return fmt.Errorf("expected %q in: %s", s, out)
		}
	}
	return nil
}

// absent expects none of the pieces in out.
func absent(out string, pieces ...string) error {
	for _, s := range pieces {
		if strings.Contains(out, s) {
			return fmt.Errorf("expected no %q in: %s", s, out)
		}
	}
	return nil
}

// limit is how long a step that answers at once may take on a slow machine.
const limit = 15 * time.Second

// in runs a command in an actor and returns its output and exit code.
func (p *player) in(hands, shell string) (string, int, error) {
	j, err := start(hands, shell)
	if err != nil {
		return "", -1, err
	}
	defer j.stop()
	return j.wait(limit)
}

// leave ends the actors, whatever step they are in.
func (p *player) leave() {
	for _, j := range []*job{p.coderLive, p.testerLive, p.testerRun, p.coderRun} {
		if j != nil {
			j.stop()
		}
	}
}
