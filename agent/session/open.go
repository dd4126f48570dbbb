package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/uplink"
)

// opening is a stream on its way to being a session.
type opening struct {
	*Server
	up     *uplink.Stream
	client *peeked
	target Target
	owner  protocol.Owner
}

// serve opens the session, lets the room serve it, and closes it.
func (s *Server) serve(ctx context.Context, o *opening) {
	opened, d := o.open(ctx)
	if d != nil {
		o.refuse(ctx, d)
		return
	}
	log := s.Log.With("session", opened.Session, "target", o.up.Hello.Target, "principal", opened.Lineage.Principal, "actor", opened.Lineage.Actor().Name)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	late := time.AfterFunc(time.Until(opened.Expires), func() {
		end(&access.Denied{Code: access.CodeRevoked, Rule: api.RuleExpired, Hint: "connect again"})
	})
	defer late.Stop()
	if err := s.Spool.Opened(spool.Session{ID: opened.Session, State: opened.State}); err != nil {
		log.Error("session refused", "error", err)
		s.close(ctx, opened, gate.Head{}, "refused: the agent's spool takes no session")
		o.refuse(ctx, &access.Denied{Code: access.CodeBusy, Rule: "spool-full", Retryable: true, Hint: "the agent cannot take sessions now: try again later"})
		return
	}
	g, login, err := o.prepare(ctx, opened)
	if err != nil {
		log.Error("session refused", "error", err)
		s.close(ctx, opened, gate.Head{}, "refused: the agent could not prepare it")
		o.refuse(ctx, &access.Denied{Code: access.CodeUnsupported, Rule: "agent-not-ready", Retryable: true,
			Hint: "the agent has no credential for this target: whoever runs it finds the reason in its log"})
		return
	}
	leave := s.live.enter(opened.Session, opened.State, end)
	recorder := s.Recordings.Session(opened.Session, g.Running)
	log.Info("session open")
	err = o.target.Room.Serve(ctx, o.client, &protocol.Session{
		ID: opened.Session, Target: o.up.Hello.Target, Lineage: opened.Lineage, Owner: o.owner, Classes: s.classes(opened.Classes), MaskKey: s.MaskKey,
		Login: login, Verifier: o.up.Preamble.Verifier, Dial: o.target.Dial, Gate: g, Recorder: recorder, Log: s.Log,
	})
	recorder.Close()
	reason := why(ctx, err)
	log.Info("session ends", "reason", reason, "error", err)
	leave()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), headTimeout)
	defer cancel()
	s.close(ctx, opened, g.Close(closing), reason)
}

// openTries: a second time finds a broker that restarted. It cannot open two sessions: id and nonce are good once.
const openTries = 2

// open asks the broker for the session.
func (o *opening) open(ctx context.Context) (api.OpenResponse, *access.Denied) {
	id, err := token.NewID(o.Now())
	if err != nil {
		o.Log.Error("session id", "error", err)
		return api.OpenResponse{}, noDecision
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	req := api.OpenRequest{Session: access.SessionID(id), Target: o.up.Hello.Target, Agent: o.Agent, Token: o.up.Preamble.Token,
		Proof: o.up.Preamble.Proof, Exporter: o.up.Exporter, Client: o.up.Preamble.Client}
	for range openTries {
		var resp api.OpenResponse
		resp, err = o.Broker.Open(ctx, req)
		if err == nil && (resp.Session != req.Session || resp.State == "" || len(resp.DigestKey) != 32 || !resp.Expires.After(o.Now())) {
			err = errors.New("the answer is not for this session")
		}
		if err == nil {
			return resp, nil
		}
		if e := (*api.Error)(nil); errors.As(err, &e) && !errors.Is(e, api.ErrUnavailable) && !errors.Is(e, api.ErrInternal) {
			if e.Rule == api.RuleAgentRevoked || e.Rule == api.RuleAgentExpired || e.Rule == api.RuleAgentSignature {
				o.Log.Error("the broker does not accept this agent", "rule", e.Rule, "error", e, "next", e.Hint)
			}
			return resp, refusal(e)
		}
	}
	o.Log.Warn("no decision on a session", "target", o.up.Hello.Target, "error", err)
	return api.OpenResponse{}, noDecision
}

var noDecision = &access.Denied{Code: access.CodeNoDecision, Rule: "session-open", Retryable: true,
	Hint: "the broker did not answer; try again, and look at the agent's log if it goes on"}

// refusal is the broker's word on a session, as a denial.
func refusal(e *api.Error) *access.Denied {
	d := &access.Denied{Code: access.CodeDenied, Rule: cmp.Or(e.Narrow(), "session-open"), Hint: e.Message}
	switch {
	case errors.Is(e, api.ErrRevoked):
		d.Code, d.Rule = access.CodeRevoked, cmp.Or(e.Narrow(), api.RuleRevoked)
	case errors.Is(e, api.ErrLogin):
		d.Code, d.Rule = access.CodeRevoked, cmp.Or(e.Narrow(), api.RuleLoginExpired)
	case errors.Is(e, api.ErrBusy):
		d.Code, d.Retryable = access.CodeBusy, true
	}
	if e.Hint != "" {
		d.Hint += "; " + e.Hint
	}
	return d
}

// prepare makes the session's gate and fetches its credential.
func (o *opening) prepare(ctx context.Context, opened api.OpenResponse) (*gate.Gate, protocol.Login, error) {
	_, rows := o.target.Room.(protocol.RowCounter)
	g, err := gate.New(gate.Config{
		Batcher: o.Batcher, Claims: o.Broker, Verdicts: &o.live, Outcomes: o.Spool, Session: opened.Session, Target: o.up.Hello.Target,
		State: opened.State, DigestKey: opened.DigestKey, Classes: o.classes(opened.Classes), Rows: rows, Floor: o.Floor, Now: o.Now,
	})
	if err != nil {
		return nil, protocol.Login{}, err
	}
	login, err := o.target.Login(ctx)
	if err != nil {
		return nil, protocol.Login{}, fmt.Errorf("login for target %q: %w", o.up.Hello.Target, err)
	}
	return g, login, nil
}

// classes are the bundle's and the floor's. The floor's come first, so that a column in both is the floor's; one name is one class, with
// the floor's mask over the columns of both.
func (s *Server) classes(bundle []access.Class) []access.Class {
	all := slices.Clone(s.Floor.Mask)
	for _, c := range bundle {
		i := slices.IndexFunc(all, func(f access.Class) bool { return f.Name == c.Name })
		if i < 0 {
			all = append(all, c)
			continue
		}
		all[i].Columns = append(slices.Clone(all[i].Columns), c.Columns...)
		all[i].Detector = cmp.Or(all[i].Detector, c.Detector)
	}
	return all
}

// refuse tells the client why there is no session, in its own protocol where the room can.
func (o *opening) refuse(ctx context.Context, d *access.Denied) {
	o.Log.Info("session refused", "target", o.up.Hello.Target, "decision", d.Code, "rule", d.Rule)
	r, ok := o.target.Room.(protocol.Refuser)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refuseTimeout)
	defer cancel()
	if err := r.Refuse(ctx, o.client, d); err != nil {
		o.Log.Info("client not told why", "target", o.up.Hello.Target, "error", err)
	}
}

// why is the reason of a session's end, for the evidence.
func why(ctx context.Context, err error) string {
	d := (*access.Denied)(nil)
	switch {
	case errors.As(context.Cause(ctx), &d):
		return "ended: " + d.Rule
	case ctx.Err() != nil:
		return "the agent stopped"
	case errors.As(err, &d):
		return "refused: " + d.Rule
	case err != nil:
		return "broken off"
	}
	return "the client left"
}
