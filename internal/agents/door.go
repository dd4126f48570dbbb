package agents

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// Door is where the functions take what agents sign. All of it is required.
type Door struct {
	CA    *x509.Certificate
	Guard *Guard
	Now   func() time.Time
	Log   *slog.Logger
	Again string // what an agent does that got no answer because a store did not give one
}

// Called is a request that names the agent that it is from.
type Called interface{ From() access.AgentName }

// Signed serves one kind of call. Before anything else happens it is verified and decoded strictly, the agent is not revoked, and it speaks
// for itself. An error that is no api.Error is logged, and tells the agent no more than to come again.
func Signed[In any, P interface {
	*In
	Called
}, Out any](d Door, call func(context.Context, token.Agent, *In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		agent, err := token.ReadAgent(r, d.CA, d.Now().UTC(), in)
		if err == nil {
			err = d.Guard.Check(r.Context(), agent)
		}
		if named := P(in).From(); err == nil && (agent.Name == "" || agent.Name != named) {
			err = api.Because(api.ErrDenied, "", "agent %q signed a request of agent %q", agent.Name, named).By(api.RuleAgentName)
		}
		var out Out
		if err == nil {
			out, err = call(r.Context(), agent, in)
			if e := (*api.Error)(nil); err != nil && !errors.As(err, &e) {
				d.Log.ErrorContext(r.Context(), "an agent got no answer", "path", r.URL.Path, "agent", agent.Name, "error", err)
				err = api.Because(api.ErrUnavailable, d.Again, "a store did not answer")
			}
		}
		if err != nil {
			api.Fail(w, d.Log, err)
			return
		}
		api.Write(w, out)
	}
}
