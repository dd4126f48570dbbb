package decide

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// Bundles finds the active policy bundle. An error denies.
type Bundles interface {
	Active(ctx context.Context) (*policy.Bundle, error)
}

// Config is what New needs. All but Now and Log are required.
type Config struct {
	Items    store.Items
	Evidence store.Blobs   // bodies of commands that do not fit their entries
	Uploads  store.Uploads // commands that do not fit a call
	Bundles  Bundles
	Verifier *token.Verifier
	CA       *x509.Certificate // signs agents' certificates
	StateKey []byte            // 32 bytes: seals session state and broker nonces
	Console  string            // URL of the reviewer's pages, without a final slash: links are Console+"/approve/"+ID
	Base     string            // the broker's own public URL, which callers' DPoP proofs name
	Now      func() time.Time  // nil: time.Now
	Log      *slog.Logger      // nil: nothing is logged
}

type decider struct {
	Config
	live    *live
	uploads chan struct{} // one for each Ask whose uploaded commands are in memory
	agents  *agents.Guard
	classes classes
}

// New serves PathOpen, PathCheck, PathUpload, PathClaim and PathClose to agents, and PathCan to principals and actors.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Items == nil, c.Evidence == nil, c.Uploads == nil, c.Bundles == nil, c.Verifier == nil, c.CA == nil:
		return nil, errors.New("decide: Items, Evidence, Uploads, Bundles, Verifier and CA are required")
	case len(c.StateKey) != 32:
		return nil, fmt.Errorf("decide: the state key has %d bytes, want 32", len(c.StateKey))
	case c.Console == "" || c.Base == "":
		return nil, errors.New("decide: Console and Base are required")
	}
	c.Console = strings.TrimSuffix(c.Console, "/")
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	d := &decider{Config: c, live: newLive(maxLive), uploads: make(chan struct{}, maxLarge), agents: agents.NewGuard(c.Items, c.Now)}
	door := agents.Door{CA: c.CA, Guard: d.agents, Now: c.Now, Log: c.Log, Again: "nothing ran; ask again with the same command ids"}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathOpen, agents.Signed(door, d.open))
	mux.HandleFunc("POST "+api.PathCheck, agents.Signed(door, d.check))
	mux.HandleFunc("POST "+api.PathUpload, agents.Signed(door, d.upload))
	mux.HandleFunc("POST "+api.PathClaim, agents.Signed(door, d.claim))
	mux.HandleFunc("POST "+api.PathClose, agents.Signed(door, d.close))
	mux.HandleFunc("POST "+api.PathCan, d.can)
	return mux, nil
}

func (d *decider) now() time.Time { return d.Now().UTC() }

// noDecision is the answer where a store did not: the reason is logged, the caller learns that nothing may run.
func (d *decider) noDecision(ctx context.Context, op string, err error) *api.Error {
	d.Log.ErrorContext(ctx, "no decision", "operation", op, "error", err)
	return api.Because(api.ErrUnavailable, "nothing ran; ask again with the same command ids", "no decision: %s did not answer", op)
}

// refusal is err where it is one that may cross the boundary, and otherwise that no decision was reached.
func (d *decider) refusal(ctx context.Context, op string, err error) *api.Error {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e
	}
	return d.noDecision(ctx, op, err)
}

// state opens a session's sealed state and binds it to the agent that signed the call: by the name that the CA gave it, so
// that a renewed certificate goes on with its sessions, and by the target, which the certificate must still name.
func (d *decider) state(agent token.Agent, id access.SessionID, raw string) (token.State, error) {
	st, known := d.live.state(id, raw)
	if !known {
		var err error
		if st, err = token.OpenState(d.StateKey, raw); err != nil {
			return token.State{}, api.Because(api.ErrDenied, "open the session again", "session state is not ours: %v", err).By(api.RuleSessionState)
		}
	}
	if st.Session != id || st.Agent != agent.Name {
		return token.State{}, api.Because(api.ErrDenied, "", "session state belongs to another session or agent").By(api.RuleSessionState)
	}
	if !agent.Serves(st.Target) {
		return token.State{}, api.Because(api.ErrDenied, "enroll the agent for the target", "agent %q does not serve target %q any more", agent.Name, st.Target).By(api.RuleAgentTarget)
	}
	return st, nil
}
