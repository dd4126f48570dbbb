package decide

import (
	"net/http"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/token"
)

// can tells a principal or actor what would be decided for one effect on one resource. Nothing is stored and nothing runs, so
// the answer permits nothing.
func (d *decider) can(w http.ResponseWriter, r *http.Request) {
	dec, err := d.wouldDecide(r)
	if err != nil {
		api.Fail(w, d.Log, err)
		return
	}
	api.Write(w, api.CanResponse{Decision: dec})
}

func (d *decider) wouldDecide(r *http.Request) (access.Decision, error) {
	now := d.now()
	claims, err := d.Verifier.Request(r.Context(), r, d.Base, d.Items, now)
	if err != nil {
		return access.Decision{}, d.refusal(r.Context(), "the caller's proof", err)
	}
	var req api.CanRequest
	if err := api.Read(r, &req); err != nil {
		return access.Decision{}, err
	}
	if _, _, err := token.Live(r.Context(), d.Items, claims, now); err != nil {
		return access.Decision{}, d.refusal(r.Context(), "the lineage", err)
	}
	bundle, err := d.Bundles.Active(r.Context())
	if err != nil {
		return access.Decision{}, d.noDecision(r.Context(), "the policy", err)
	}
	cmd := access.Command{Verb: "CAN", Complete: true, State: access.State{Database: req.Database},
		Facts:   access.Facts{HasWhere: true, Statement: 1}, // the question is about a command with every care taken
		Touches: []access.Touch{{Effect: req.Effect, Resource: req.Resource}}}
	v := policy.Decide(bundle, policy.Request{Command: cmd, Target: req.Target, Lineage: claims.Lineage(),
		Capability: claims.Capability, Now: now})
	return decision(&cmd, "", v), nil
}
