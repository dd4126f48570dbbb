package gate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
)

// fake is a broker, a spool and a place for verdicts. By default it allows everything and keeps the chain as the real one does.
type fake struct {
	mu       sync.Mutex
	seq      uint64
	prev     string
	stored   map[uint64]access.Decision
	asked    []api.CheckRequest
	claims   []api.ClaimRequest
	verdicts map[access.ApprovalID]chan api.Verdict
	reserved int
	outcomes []api.Outcome
	full     bool
	problems []string

	rule  func(c access.Command) access.Decision                             // nil: allow
	check func(context.Context, api.CheckRequest) (api.CheckResponse, error) // nil: decide
	claim func(context.Context, api.ClaimRequest) (access.Decision, error)   // nil: allow
	edit  func(*api.CheckResponse)
}

func newFake() *fake {
	return &fake{prev: audit.FirstLink("S"), stored: map[uint64]access.Decision{}, verdicts: map[access.ApprovalID]chan api.Verdict{}}
}

func (f *fake) Check(ctx context.Context, r api.CheckRequest) (api.CheckResponse, error) {
	f.mu.Lock()
	f.asked = append(f.asked, r)
	check, edit := f.check, f.edit
	f.mu.Unlock()
	if check != nil {
		return check(ctx, r)
	}
	resp := f.decide(r)
	if edit != nil {
		edit(&resp)
	}
	return resp, nil
}

// decide stores as functions/decide does: until the first command that is not allowed.
func (f *fake) decide(r api.CheckRequest) api.CheckResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	var resp api.CheckResponse
	for _, a := range r.Asks {
		ans := api.Answer{Session: a.Session}
		over := false
		for i, c := range a.Commands {
			d := access.Decision{Command: c.ID, Seq: c.Seq, Digest: access.Digest(key, "app", c)}
			if over {
				d.Rule = api.RuleBatchStopped
				ans.Decisions = append(ans.Decisions, d)
				continue
			}
			v := access.Decision{Outcome: access.Allow, Rule: "ok"}
			if f.rule != nil {
				v = f.rule(c)
			}
			if old, again := f.stored[c.Seq]; again {
				if old.Command != c.ID {
					f.problems = append(f.problems, fmt.Sprintf("sequence %d was seen twice", c.Seq))
				}
				v = old
			} else {
				if i == 0 && a.Session == "S" && (a.Prev != f.prev || c.Seq != f.seq+1) {
					f.problems = append(f.problems, fmt.Sprintf("command %d is not chained", c.Seq))
				}
				f.seq, f.prev = c.Seq, audit.Link(f.prev, c.ID, c.Seq, d.Digest)
			}
			v.Command, v.Seq, v.Digest = d.Command, d.Seq, d.Digest
			f.stored[c.Seq] = v
			ans.Decisions = append(ans.Decisions, v)
			over = v.Outcome != access.Allow
		}
		resp.Answers = append(resp.Answers, ans)
	}
	return resp
}

func (f *fake) Claim(ctx context.Context, r api.ClaimRequest) (api.ClaimResponse, error) {
	f.mu.Lock()
	f.claims = append(f.claims, r)
	claim := f.claim
	f.mu.Unlock()
	if claim != nil {
		d, err := claim(ctx, r)
		return api.ClaimResponse{Decision: d}, err
	}
	return api.ClaimResponse{Decision: yes(r)}, ctx.Err()
}

func yes(r api.ClaimRequest) access.Decision {
	if r.Withdraw {
		return access.Decision{}
	}
	return access.Decision{Outcome: access.Allow, Command: r.Command.ID, Seq: r.Command.Seq, Digest: access.Digest(key, "app", r.Command), Approval: r.Approval}
}

func (f *fake) withdrawn() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.claims {
		if c.Withdraw {
			n++
		}
	}
	return n
}

func (f *fake) Watch(id access.ApprovalID) (<-chan api.Verdict, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan api.Verdict, 1)
	f.verdicts[id] = c
	return c, func() { f.mu.Lock(); defer f.mu.Unlock(); delete(f.verdicts, id) }
}

func (f *fake) answer(id access.ApprovalID, v api.Verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verdicts[id] <- v
}

func (f *fake) Reserve(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return errors.New("full")
	}
	f.reserved += n
	return nil
}

func (f *fake) Release(n int) { f.mu.Lock(); defer f.mu.Unlock(); f.reserved -= n }

func (f *fake) Put(o api.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reserved--
	f.outcomes = append(f.outcomes, o)
}

var key = make([]byte, 32)

// rig is one session's gate on a fake, in a bubble of its own time.
type rig struct {
	*fake
	g *Gate
	b *Batcher
}

func run(t *testing.T, do func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFake(), "S")
		do(t, r)
		head := r.g.Close(t.Context())
		if head.Prev != "" && (head.Seq != r.sequence() || head.Prev != r.last()) {
			t.Errorf("the chain ends at %+v, the broker's at %d %s", head, r.sequence(), r.last())
		}
		r.b.Close()
		if r.reserved != 0 {
			t.Errorf("%d places are still reserved", r.reserved)
		}
		if len(r.problems) != 0 {
			t.Errorf("the broker saw: %q", r.problems)
		}
	})
}

func (f *fake) sequence() uint64 { f.mu.Lock(); defer f.mu.Unlock(); return f.seq }
func (f *fake) last() string     { f.mu.Lock(); defer f.mu.Unlock(); return f.prev }

func newRig(t *testing.T, f *fake, id access.SessionID) *rig {
	t.Helper()
	b := NewBatcher("agent", f)
	g, err := New(Config{Batcher: b, Claims: f, Verdicts: f, Outcomes: f, Session: id, Target: "app", State: "sealed", DigestKey: key, Rows: true,
		Classes: []access.Class{{Name: "email"}, {Name: "card"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{fake: f, g: g, b: b}
}

func cmd(text string) access.Command {
	return access.Command{Verb: "SELECT", Text: text, Complete: true,
		Touches: []access.Touch{{Effect: access.Read, Resource: access.Resource{Kind: access.KindTable, Name: "public.t", Columns: []string{"a"}}}}}
}

func cmds(n int) []access.Command {
	all := make([]access.Command, n)
	for i := range all {
		all[i] = cmd(fmt.Sprintf("select %d", i))
	}
	return all
}

// denied asserts that exactly the first command is refused, with a code and a rule.
func denied(t *testing.T, ps []*Permit, err error, code, rule string) *access.Denied {
	t.Helper()
	d := (*access.Denied)(nil)
	if !errors.As(err, &d) {
		t.Fatalf("permits %v, error %v: want a denial", ps, err)
	}
	if d.Code != code || d.Rule != rule {
		t.Fatalf("denied by %s %q (%s), want %s %q", d.Code, d.Rule, d.Hint, code, rule)
	}
	if d.Hint == "" {
		t.Errorf("%s %s does not say what to do next", code, rule)
	}
	if len(ps) != d.Index {
		t.Errorf("%d permits before index %d", len(ps), d.Index)
	}
	return d
}

func TestNewWantsEverything(t *testing.T) {
	f := newFake()
	b := NewBatcher("agent", f)
	good := Config{Batcher: b, Claims: f, Verdicts: f, Outcomes: f, Session: "S", Target: "app", State: "x", DigestKey: key}
	for name, edit := range map[string]func(*Config){
		"batcher": func(c *Config) { c.Batcher = nil }, "claims": func(c *Config) { c.Claims = nil }, "verdicts": func(c *Config) { c.Verdicts = nil },
		"outcomes": func(c *Config) { c.Outcomes = nil }, "session": func(c *Config) { c.Session = "" }, "target": func(c *Config) { c.Target = "" },
		"state": func(c *Config) { c.State = "" }, "digest key": func(c *Config) { c.DigestKey = key[:31] },
	} {
		c := good
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("without %s a gate was made", name)
		}
	}
}

func TestAllowed(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.rule = func(access.Command) access.Decision {
			return access.Decision{Outcome: access.Allow, Obligations: []access.Obligation{{Kind: access.ObligeMask, Classes: []string{"email"}},
				{Kind: access.ObligeRows, Limit: 9}, {Kind: access.ObligeRows, Limit: 5}, {Kind: access.ObligeRows, Limit: 7}, {Kind: access.ObligeRecord}}}
		}
		ps, err := r.g.Check(t.Context(), cmds(2), nil)
		if err != nil || len(ps) != 2 {
			t.Fatal(ps, err)
		}
		p := ps[0]
		if p.Command() != r.asked[0].Asks[0].Commands[0].ID || !p.Masks("email") || p.Masks("card") || p.RowLimit() != 5 || !p.Records() || new(Permit).Records() {
			t.Errorf("permit %+v", p)
		}
		if err := p.Use(); err != nil {
			t.Fatal(err)
		}
		denied(t, nil, p.Use(), access.CodeNoDecision, "permit-not-valid")
		p.Done(access.Result{Status: access.StatusOK, Rows: 3})
		p.Done(access.Result{Status: access.StatusError})
		ps[1].Done(access.Result{Status: access.StatusOK})
		if len(r.outcomes) != 2 || r.outcomes[0].Result.Rows != 3 || r.outcomes[0].Seq != 1 || r.outcomes[1].Result.Status != access.StatusUnused {
			t.Errorf("outcomes %+v", r.outcomes)
		}
		none, err := r.g.Check(t.Context(), nil, nil)
		if len(none) != 0 || err != nil {
			t.Error(none, err)
		}
	})
}

func TestPermitsThatPermitNothing(t *testing.T) {
	denied(t, nil, (*Permit)(nil).Use(), access.CodeNoDecision, "permit-missing")
	denied(t, nil, new(Permit).Use(), access.CodeNoDecision, "permit-not-valid")
	new(Permit).Done(access.Result{})
	run(t, func(t *testing.T, r *rig) {
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(api.PermitLife + time.Nanosecond)
		denied(t, nil, ps[0].Use(), access.CodeNoDecision, "permit-late")
		ps[0].Done(access.Result{Status: access.StatusOK})
		if r.outcomes[0].Result.Status != access.StatusUnused {
			t.Errorf("%+v", r.outcomes)
		}
	})
}

func TestDenialsOfTheBroker(t *testing.T) {
	refusedByRoom := cmd("copy")
	refusedByRoom.Refused = &access.Refusal{Rule: "postgres.copy", Hint: "use SELECT"}
	for _, c := range []struct {
		name       string
		cmd        access.Command
		dec        access.Decision
		code, rule string
		retry      bool
	}{
		{"policy", cmd("x"), access.Decision{Rule: "no", Hint: "h"}, access.CodeDenied, "no", false},
		{"code not known", cmd("x"), access.Decision{Rule: "no", Code: "brand-new", Hint: "h"}, access.CodeDenied, "no", false},
		{"busy", cmd("x"), access.Decision{Rule: api.RuleTooManyHolds, Code: access.CodeBusy, Hint: "h"}, access.CodeBusy, api.RuleTooManyHolds, true},
		{"revoked", cmd("x"), access.Decision{Rule: api.RuleRevoked, Code: access.CodeRevoked, Hint: "h"}, access.CodeRevoked, api.RuleRevoked, false},
		{"the room's own", refusedByRoom, access.Decision{Rule: "postgres.copy"}, access.CodeDenied, "postgres.copy", false},
		{"the room's own, allowed", refusedByRoom, access.Decision{Outcome: access.Allow}, access.CodeDenied, "postgres.copy", false},
		{"obligation", cmd("x"), oblige(access.Obligation{Kind: "watermark"}), access.CodeNoDecision, "obligation-unknown", false},
		{"class not known", cmd("x"), oblige(access.Obligation{Kind: access.ObligeMask, Classes: []string{"email", "iris"}}), access.CodeNoDecision, "obligation-class", false},
		{"no class", cmd("x"), oblige(access.Obligation{Kind: access.ObligeMask}), access.CodeNoDecision, "obligation-class", false},
		{"no rows", cmd("x"), oblige(access.Obligation{Kind: access.ObligeRows}), access.CodeNoDecision, "obligation-rows", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.rule = func(x access.Command) access.Decision {
					if x.Text == c.cmd.Text {
						return c.dec
					}
					return access.Decision{Outcome: access.Allow}
				}
				ps, err := r.g.Check(t.Context(), []access.Command{cmd("first"), c.cmd, cmd("last")}, nil)
				d := denied(t, ps, err, c.code, c.rule)
				if d.Index != 1 || d.Retryable != c.retry || d.Command != r.asked[0].Asks[0].Commands[1].ID {
					t.Errorf("%+v", d)
				}
				if err := ps[0].Use(); err != nil {
					t.Error(err)
				}
				ps[0].Done(access.Result{Status: access.StatusOK})
				if _, err := r.g.Check(t.Context(), cmds(1), nil); err == nil { // the session lives
					r.g.Outcomes.Put(api.Outcome{})
				} else {
					t.Error(err)
				}
			})
		})
	}
}

func oblige(o ...access.Obligation) access.Decision {
	return access.Decision{Outcome: access.Allow, Obligations: o}
}

func TestAnswersThatDoNotFitRefuse(t *testing.T) {
	for name, edit := range map[string]func(*api.CheckResponse){
		"no answers":    func(r *api.CheckResponse) { r.Answers = nil },
		"two answers":   func(r *api.CheckResponse) { r.Answers = append(r.Answers, r.Answers[0]) },
		"other session": func(r *api.CheckResponse) { r.Answers[0].Session = "T" },
		"fewer":         func(r *api.CheckResponse) { r.Answers[0].Decisions = r.Answers[0].Decisions[:1] },
		"more": func(r *api.CheckResponse) {
			r.Answers[0].Decisions = append(r.Answers[0].Decisions, r.Answers[0].Decisions[1])
		},
		"other command":        func(r *api.CheckResponse) { r.Answers[0].Decisions[1].Command = "C" },
		"other sequence":       func(r *api.CheckResponse) { r.Answers[0].Decisions[0].Seq++ },
		"other digest":         func(r *api.CheckResponse) { r.Answers[0].Decisions[1].Digest = "x" },
		"outcome":              func(r *api.CheckResponse) { r.Answers[0].Decisions[0].Outcome = 7 },
		"allowed after denied": func(r *api.CheckResponse) { r.Answers[0].Decisions[0].Outcome = access.Deny },
		"nothing decided": func(r *api.CheckResponse) {
			d := &r.Answers[0].Decisions[0]
			d.Outcome, d.Rule = access.Deny, api.RuleBatchStopped
		},
		"held without approval":    func(r *api.CheckResponse) { r.Answers[0].Decisions[1].Outcome = access.Hold },
		"unavailable":              func(r *api.CheckResponse) { r.Answers[0].Error = api.ErrUnavailable },
		"unavailable beside allow": func(r *api.CheckResponse) { r.Answers[0].Error = api.ErrInternal },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.edit = edit
				ps, err := r.g.Check(t.Context(), cmds(2), nil)
				denied(t, ps, err, access.CodeNoDecision, "no-answer")
				if len(r.asked) != askTries {
					t.Errorf("asked %d times", len(r.asked))
				}
				// Once the broker is itself again the session goes on, on an unbroken chain, and what was allowed unheard is reported unused.
				r.mu.Lock()
				r.edit = nil
				r.mu.Unlock()
				ps, err = r.g.Check(t.Context(), cmds(1), nil)
				if err != nil || ps[0].Use() != nil {
					t.Fatal(err)
				}
				ps[0].Done(access.Result{Status: access.StatusOK})
				if len(r.outcomes) != 3 || r.outcomes[0].Result.Status != access.StatusUnused || r.outcomes[2].Seq != 3 {
					t.Errorf("outcomes %+v", r.outcomes)
				}
			})
		})
	}
}

func TestErrorsOfTheBroker(t *testing.T) {
	for _, c := range []struct {
		err        *api.Error
		code, rule string
	}{
		{api.Because(api.ErrRevoked, "", "session is over"), access.CodeRevoked, api.RuleRevoked},
		{api.Because(api.ErrTooLarge, "send less", "too much"), access.CodeDenied, api.RuleTooLarge},
		{api.Because(api.ErrBadRequest, "set the clock", "id"), access.CodeNoDecision, "broker-refused"},
		{api.Because(api.ErrLogin, "enroll", "certificate"), access.CodeNoDecision, "broker-refused"},
	} {
		t.Run(c.err.Code, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.check = func(context.Context, api.CheckRequest) (api.CheckResponse, error) { return api.CheckResponse{}, c.err }
				ps, err := r.g.Check(t.Context(), cmds(3), nil)
				denied(t, ps, err, c.code, c.rule)
				if len(r.asked) != 1 {
					t.Errorf("asked %d times", len(r.asked))
				}
			})
		})
	}
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		n := 0
		r.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			resp := r.decide(req)
			if n++; n == 1 {
				return api.CheckResponse{}, errors.New("connection reset")
			}
			return resp, nil
		}
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		ps[0].Done(access.Result{})
	})
}

func TestABrokerThatIsSilentRefusesInTime(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.check = func(ctx context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			r.decide(req) // it stores, and does not answer
			<-ctx.Done()
			return api.CheckResponse{}, ctx.Err()
		}
		start := time.Now()
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeNoDecision, "no-answer")
		if took := time.Since(start); took != api.PermitLife {
			t.Errorf("it took %s", took)
		}
		ps, err = r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeNoDecision, "no-answer")
		r.mu.Lock()
		r.check = nil
		r.mu.Unlock()
		ps, err = r.g.Check(t.Context(), cmds(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		ps[0].Done(access.Result{})
		if len(r.outcomes) != 2 || r.outcomes[0].Result.Status != access.StatusUnused {
			t.Errorf("%+v", r.outcomes)
		}
	})
}

func TestALateAnswerIsTakenByTheNextQuestion(t *testing.T) {
	for name, late := range map[string]func(r *rig, req api.CheckRequest) (api.CheckResponse, error){
		"good": func(r *rig, req api.CheckRequest) (api.CheckResponse, error) { return r.decide(req), nil },
		"refused": func(*rig, api.CheckRequest) (api.CheckResponse, error) {
			return api.CheckResponse{}, api.Because(api.ErrBadRequest, "x", "y")
		},
		"lost": func(r *rig, req api.CheckRequest) (api.CheckResponse, error) {
			r.decide(req)
			return api.CheckResponse{}, errors.New("lost")
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				release := make(chan struct{})
				r.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
					<-release
					return late(r, req)
				}
				ctx, cancel := context.WithCancel(t.Context())
				go func() { synctest.Wait(); cancel() }()
				ps, err := r.g.Check(ctx, cmds(1), nil)
				denied(t, ps, err, access.CodeCancelled, "cancelled")
				// The answer is still on its way: a second client's patience is no longer than the first's.
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				ps, err = r.g.Check(ctx, cmds(1), nil)
				denied(t, ps, err, access.CodeCancelled, "cancelled")
				r.mu.Lock()
				r.check = nil
				r.mu.Unlock()
				close(release)
				ps, err = r.g.Check(t.Context(), cmds(1), nil)
				if err != nil {
					t.Fatal(err)
				}
				ps[0].Done(access.Result{})
			})
		})
	}
}

func TestAStaleQuestionIsGivenUp(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.check = func(context.Context, api.CheckRequest) (api.CheckResponse, error) {
			return api.CheckResponse{}, errors.New("connection refused")
		}
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeNoDecision, "no-answer")
		old := r.asked[0].Asks[0].Commands[0].ID
		time.Sleep(stale + time.Second)
		r.mu.Lock()
		r.check = nil
		r.mu.Unlock()
		ps, err = r.g.Check(t.Context(), cmds(1), nil)
		if err != nil || ps[0].Command() == old {
			t.Fatal(err, ps)
		}
		ps[0].Done(access.Result{})
	})
}

func TestARepeatedQuestionMayBeRefused(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		n := 0
		r.check = func(context.Context, api.CheckRequest) (api.CheckResponse, error) {
			if n++; n <= askTries {
				return api.CheckResponse{}, errors.New("connection refused")
			}
			return api.CheckResponse{}, api.Because(api.ErrRevoked, "", "session is over")
		}
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeNoDecision, "no-answer")
		ps, err = r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeRevoked, api.RuleRevoked)
	})
}

func TestFullSpoolAndStrangeClockRefuse(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.full = true
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		if d := denied(t, ps, err, access.CodeBusy, "spool-full"); !d.Retryable {
			t.Error("not retryable")
		}
		r.full = false
		r.g.Now = func() time.Time { return time.Unix(math.MaxInt32*1000000, 0) }
		ps, err = r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeNoDecision, "command-id")
		r.g.Now = time.Now
		if len(r.asked) != 0 {
			t.Error("it was asked")
		}
	})
}

func TestClosedGate(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.g.Close(t.Context())
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		denied(t, ps, err, access.CodeNoDecision, "session-closed")
	})
}

func TestCloseWhereTheEndIsNotKnown(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		ps, err := r.g.Check(t.Context(), cmds(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		ps[0].Done(access.Result{})
		r.check = func(context.Context, api.CheckRequest) (api.CheckResponse, error) {
			return api.CheckResponse{}, errors.New("gone")
		}
		_, _ = r.g.Check(t.Context(), cmds(2), nil)
		if h := r.g.Close(t.Context()); h != (Head{Seq: 1}) {
			t.Errorf("%+v", h)
		}
	})
}

func TestManyCommandsGoInSeveralQuestions(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		ps, err := r.g.Check(t.Context(), cmds(api.MaxBatch+6), nil)
		if err != nil || len(ps) != api.MaxBatch+6 || len(r.asked) != 2 {
			t.Fatal(len(ps), err, len(r.asked))
		}
		for _, p := range ps {
			p.Done(access.Result{})
		}
	})
}

func TestTheBrokerMayStopABatchAnywhere(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			whole := req.Asks[0].Commands
			req.Asks[0].Commands = whole[:1]
			resp := r.decide(req)
			for _, c := range whole[1:] {
				resp.Answers[0].Decisions = append(resp.Answers[0].Decisions, access.Decision{Command: c.ID, Seq: c.Seq,
					Digest: access.Digest(key, "app", c), Rule: api.RuleBatchStopped})
			}
			return resp, nil
		}
		ps, err := r.g.Check(t.Context(), cmds(4), nil)
		if err != nil || len(ps) != 4 || len(r.asked) != 4 {
			t.Fatal(len(ps), err, len(r.asked))
		}
		for _, p := range ps {
			p.Done(access.Result{})
		}
	})
}

func TestTwoAskersTakeTurns(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		r.check = func(_ context.Context, req api.CheckRequest) (api.CheckResponse, error) {
			<-release
			return r.decide(req), nil
		}
		first := make(chan error)
		go func() {
			ps, err := r.g.Check(t.Context(), cmds(1), nil)
			ps[0].Done(access.Result{})
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(&access.Denied{Code: access.CodeRevoked, Rule: "revoked", Hint: "over", Index: 3})
		ps, err := r.g.Check(ctx, cmds(1), nil)
		denied(t, ps, err, access.CodeRevoked, "revoked")
		close(release)
		if err := <-first; err != nil {
			t.Fatal(err)
		}
	})
}

func TestFloor(t *testing.T) {
	floor := Floor{Deny: []FloorRule{{ID: "no-ddl", Effects: []access.Effect{access.Define}, Resource: "*"},
		{ID: "no-pay", Resource: "public.pay*", Hint: "ask the payroll team"}}, Mask: []access.Class{{Name: "card"}}}
	touch := func(e access.Effect, name string) access.Command {
		return access.Command{Complete: true, Touches: []access.Touch{{Effect: e, Resource: access.Resource{Name: name}}}}
	}
	half := touch(access.Read, "public.t")
	half.Complete = false
	derived := touch(access.Read, "public.t")
	derived.Classes = []access.ClassUse{{Class: "email", Derived: true}, {Class: "card", Derived: true, How: "in an expression"}}
	plain := touch(access.Read, "public.t")
	plain.Classes = []access.ClassUse{{Class: "card"}}
	for _, c := range []struct {
		cmd  access.Command
		rule string
	}{
		{touch(access.Define, "public.t"), "floor.no-ddl"}, {touch(access.Read, "public.payroll"), "floor.no-pay"},
		{touch(access.Unknown, "public.t"), "floor.no-ddl"}, {touch("", "public.t"), "floor.no-ddl"}, {half, "floor.no-ddl"},
		{derived, "floor.not-maskable:card"}, {plain, ""}, {touch(access.Write, "public.t"), ""},
	} {
		got := ""
		if r := floor.refuses(&c.cmd); r != nil {
			if got = r.Rule; r.Hint == "" {
				t.Errorf("%s says nothing", r.Rule)
			}
		}
		if got != c.rule {
			t.Errorf("%+v: refused by %q, want %q", c.cmd.Touches, got, c.rule)
		}
	}
	run(t, func(t *testing.T, r *rig) {
		r.g.Floor = floor
		ps, err := r.g.Check(t.Context(), []access.Command{plain, touch(access.Define, "x")}, nil)
		denied(t, ps, err, access.CodeDenied, "floor.no-ddl") // though this broker allows everything
		if !ps[0].Masks("card") {
			t.Error("the floor's class is not masked")
		}
		if got := r.asked[0].Asks[0].Commands[1].Refused; got == nil || got.Rule != "floor.no-ddl" {
			t.Errorf("the broker was not told: %+v", got)
		}
		ps[0].Done(access.Result{})
	})
}

func TestIDsAreUnique(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		ps, _ := r.g.Check(t.Context(), cmds(64), nil)
		var ids []access.CommandID
		for _, p := range ps {
			ids = append(ids, p.Command())
			p.Done(access.Result{})
		}
		slices.Sort(ids)
		if len(slices.Compact(ids)) != 64 {
			t.Error("an id is there twice")
		}
	})
}

// A room that counts no rows cannot keep to a bound on them.
func TestRowsNeedARoomThatCountsThem(t *testing.T) {
	rows := []access.Obligation{{Kind: access.ObligeRows, Limit: 5}}
	if rule := new(Permit).oblige(rows, nil, false); rule != "obligation-rows" {
		t.Errorf("rule %q", rule)
	}
	if rule := new(Permit).oblige(rows, nil, true); rule != "" {
		t.Errorf("rule %q where it does", rule)
	}
}
