package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/functions/decide"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
)

// Crowd is many agents at once, each with sessions that ask one command after the other. A call goes to any process, as Lambda does it: two processes
// decide for one session by turns.
type Crowd struct {
	Agents, Sessions, Commands int // sessions of each agent, commands of each session
	Logins                     int // that the sessions are of
	Processes                  int
	OneAtATime                 bool // a process takes one call at a time, as under Lambda
	Held                       bool // every command is held for a reviewer, as far as the login has places
}

// Crowded is what became of them.
type Crowded struct {
	Decisions   int
	Writes      int // conditional writes of entries, on the stores' own interface
	Refused     int // of these, whose condition did not hold
	Again       int // questions that had to be asked again, because there was no answer
	Took        time.Duration
	P50, P99    time.Duration // of a call
	SlowestMean time.Duration // of an agent's calls, the slowest agent
	FastestMean time.Duration
	Fairness    float64 // Jain's index of the agents' rates: 1 where all fare alike
	Lost        int     // decisions that were answered, and whose entry is not there
	Held        int     // commands that wait; the others of a crowd that is held were refused for want of a place
}

// tries bounds how often an agent asks again.
const tries = 5

// counted are stores whose writes of entries are counted.
type counted struct {
	store.Items
	writes, refused *atomic.Int64
}

func (c counted) count(err error) error {
	c.writes.Add(1)
	if errors.Is(err, store.ErrConflict) {
		c.refused.Add(1)
	}
	return err
}

func (c counted) Put(ctx context.Context, w store.Write) error { return c.count(c.Items.Put(ctx, w)) }
func (c counted) Transact(ctx context.Context, a, b store.Write) error {
	return c.count(c.Items.Transact(ctx, a, b))
}

// Processes opens that many deciders.
type processes struct {
	handlers        []http.Handler
	busy            []chan struct{}
	writes, refused atomic.Int64
}

func (p *processes) add(h http.Handler) {
	p.handlers, p.busy = append(p.handlers, h), append(p.busy, make(chan struct{}, 1))
}

// call goes to any process, and waits for it where it takes one call at a time.
func (p *processes) call(r *http.Request, one bool) *httptest.ResponseRecorder {
	i := rand.IntN(len(p.handlers)) // #nosec: where a call goes is no secret
	rec := httptest.NewRecorder()
	if one {
		p.busy[i] <- struct{}{}
		defer func() { <-p.busy[i] }()
	}
	p.handlers[i].ServeHTTP(rec, r)
	return rec
}

// OnAWS runs the crowd where the world is.
func (c Crowd) OnAWS(ctx context.Context, w *World) (Crowded, error) {
	p := &processes{}
	for range c.Processes {
		s := stack.Open(w.getenv)
		h, err := w.handler(ctx, s, counted{s.Items(), &p.writes, &p.refused}, s.Bundles(), nil)
		if err != nil {
			return Crowded{}, err
		}
		p.add(h)
	}
	return c.run(ctx, w, p)
}

// OnTwin runs the crowd on SQLite in a directory, without the SDK between: every process has the one file, as `sallyport dev` has it.
func (c Crowd) OnTwin(ctx context.Context, w *World, where string) (got Crowded, err error) {
	db, err := sqlite.Open(filepath.Join(where, "crowd.db"))
	if err != nil {
		return Crowded{}, err
	}
	blobs, err := dir.Open(filepath.Join(where, "crowd"))
	if err != nil {
		return Crowded{}, errors.Join(err, db.Close())
	}
	defer func() { err = errors.Join(err, db.Close(), blobs.Close()) }()
	s := stack.Open(w.getenv)
	local := *w
	local.Items = db
	p := &processes{}
	for range c.Processes {
		h, err := decide.New(decide.Config{Items: counted{db, &p.writes, &p.refused}, Evidence: blobs, Uploads: &dir.Uploads{Dir: blobs, Base: base, Key: make([]byte, 32), Now: time.Now},
			Bundles: s.Bundles(), Verifier: s.Verifier(ctx), CA: w.ca.Cert(), StateKey: w.stateKey, Console: base, Base: base})
		if err != nil {
			return Crowded{}, err
		}
		p.add(h)
	}
	return c.run(ctx, &local, p)
}

// member is one session, and what its agent saw.
type member struct {
	agent   int
	session *Session
	asked   []api.Ask
	took    []time.Duration
	again   int
	held    int
}

func (c Crowd) run(ctx context.Context, w *World, p *processes) (Crowded, error) {
	agents, members, err := c.people(ctx, w)
	if err != nil {
		return Crowded{}, err
	}
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range members {
		wg.Go(func() { errs[i] = members[i].play(ctx, c, p, agents[members[i].agent]) })
	}
	wg.Wait()
	out := Crowded{Took: time.Since(begin), Writes: int(p.writes.Load()), Refused: int(p.refused.Load())}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	out.sum(members, c.Agents)
	out.Lost, err = lost(ctx, w.Items, members)
	return out, err
}

func (c Crowd) people(ctx context.Context, w *World) ([]*Agent, []*member, error) {
	agents, members := make([]*Agent, c.Agents), make([]*member, 0, c.Agents*c.Sessions)
	lineages := make([]access.Lineage, c.Logins)
	for i := range lineages {
		var err error
		if lineages[i], err = w.Login(ctx, fmt.Sprintf("person-%d@example.com", i)); err != nil {
			return nil, nil, err
		}
	}
	for i := range agents {
		var err error
		if agents[i], err = w.Agent(ctx, access.AgentName(fmt.Sprintf("edge-%d", i))); err != nil {
			return nil, nil, err
		}
		for range c.Sessions {
			s, err := w.Session(ctx, agents[i], lineages[len(members)%len(lineages)])
			if err != nil {
				return nil, nil, err
			}
			members = append(members, &member{agent: i, session: s})
		}
	}
	return agents, members, nil
}

// play asks the session's commands one after the other. Without an answer it asks the same again, as an agent does.
func (m *member) play(ctx context.Context, c Crowd, p *processes, a *Agent) error {
	for range c.Commands {
		q, err := m.session.Ask(1, c.Held)
		if err != nil {
			return err
		}
		begin := time.Now()
		var answer api.Answer
		for try := range tries {
			if answer, err = ask(ctx, p, c.OneAtATime, a, q); err == nil && answer.Error == nil {
				break
			}
			m.again += min(1, tries-1-try)
		}
		if err == nil {
			err = m.answered(q, answer, c.Held)
		}
		if err != nil {
			return fmt.Errorf("agent %s: %w", a.Name, err)
		}
		m.took = append(m.took, time.Since(begin))
		m.asked = append(m.asked, q)
	}
	return nil
}

func (m *member) answered(q api.Ask, a api.Answer, held bool) error {
	want := access.Allow
	if held {
		want = access.Hold
		if len(a.Decisions) == 1 && a.Decisions[0].Rule == api.RuleTooManyHolds {
			want = access.Deny
		} else {
			m.held++
		}
	}
	return m.session.Answered(q, a, want)
}

func ask(ctx context.Context, p *processes, one bool, a *Agent, q api.Ask) (api.Answer, error) {
	r, _, err := a.Request(ctx, api.PathCheck, api.CheckRequest{Agent: a.Name, Asks: []api.Ask{q}})
	if err != nil {
		return api.Answer{}, err
	}
	rec := p.call(r, one)
	resp, err := ReadAnswer(rec.Code, rec.Body.Bytes())
	if err != nil || len(resp.Answers) != 1 {
		return api.Answer{}, errors.Join(err, errShort)
	}
	return resp.Answers[0], nil
}

func (o *Crowded) sum(members []*member, agents int) {
	var all []time.Duration
	total, calls := make([]time.Duration, agents), make([]int, agents)
	for _, m := range members {
		o.Again += m.again
		o.Held += m.held
		for _, d := range m.took {
			all = append(all, d)
			total[m.agent] += d
			calls[m.agent]++
		}
	}
	o.Decisions = len(all)
	o.P50, o.P99 = Percentile(all, 50), Percentile(all, 99)
	sum, squares := 0.0, 0.0
	for i := range total {
		mean := total[i] / time.Duration(max(calls[i], 1))
		o.SlowestMean = max(o.SlowestMean, mean)
		if o.FastestMean == 0 || mean < o.FastestMean {
			o.FastestMean = mean
		}
		rate := 1 / mean.Seconds()
		sum, squares = sum+rate, squares+rate*rate
	}
	o.Fairness = sum * sum / (float64(agents) * squares)
}

// Percentile of durations, which it sorts; 0 of none.
func Percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)]
}

// lost counts the answered decisions whose entry is not there, in its place in the chain.
func lost(ctx context.Context, items store.Items, members []*member) (int, error) {
	n := 0
	for _, m := range members {
		for _, q := range m.asked {
			cmd := q.Commands[0]
			k, err := audit.Key(audit.Entry{Kind: audit.KindCommand, ID: string(cmd.ID), Session: q.Session, Seq: cmd.Seq})
			if err != nil {
				return n, err
			}
			it, err := items.Get(ctx, store.Audit, k, true)
			if errors.Is(err, store.ErrNotFound) {
				n++
				continue
			}
			if err != nil {
				return n, err
			}
			entries, err := audit.Decode(it)
			if err != nil {
				return n, err
			}
			if len(entries) != 1 || entries[0].ID != string(cmd.ID) || entries[0].Prev != q.Prev || entries[0].Decision == nil {
				n++
			}
		}
	}
	return n, nil
}
