package approve

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// json authenticates the caller by token and proof, asks whether its lineage is alive, and answers in JSON.
func (p *pages) json(answer func(r *http.Request, s scope) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := p.Verifier.Request(r.Context(), r, p.API, p.Items, p.Now())
		if err == nil {
			_, _, err = token.Live(r.Context(), p.Items, c, p.Now())
		}
		var s scope
		if err == nil {
			s, err = p.scopeOf(r, c)
		}
		var v any
		if err == nil {
			v, err = answer(r, s)
		}
		if err != nil {
			api.Fail(w, p.Log, err)
			return
		}
		api.Write(w, v)
	}
}

// scopeOf: what a person in an auditing group may see, the actors under them may not. Whose roles are not known gets no answer: one that lacks
// what an auditor may see would be believed.
func (p *pages) scopeOf(r *http.Request, c token.Claims) (scope, error) {
	l := c.Lineage()
	s := scope{principal: l.Principal, lineage: &l}
	if l.Depth() > 0 {
		s.actor = l.Actor().ID
		return s, nil
	}
	b, err := p.Bundles.Active(r.Context())
	if err != nil {
		return scope{}, silent(err, "no active policy, which says who may see what")
	}
	s.admin = b.Roles.Administrator(l.Groups)
	s.all = s.admin || b.Roles.Auditor(l.Groups)
	return s, nil
}

func (p *pages) listApprovals(r *http.Request, s scope) (any, error) {
	return p.approvals(r.Context(), s, r.URL.Query().Get("status"))
}

func (p *pages) oneApproval(r *http.Request, s scope) (any, error) {
	rec, _, err := approval.Get(r.Context(), p.Items, access.ApprovalID(r.PathValue("id")))
	if errors.Is(err, store.ErrNotFound) || err == nil && !s.sees(rec.Lineage) {
		return nil, api.Because(api.ErrNotFound, "list yours: sallyport approvals ls", "there is no such approval for you")
	}
	if err != nil {
		return nil, err
	}
	return p.approvalView(rec), nil
}

func (p *pages) listSessions(r *http.Request, s scope) (any, error) {
	limit := 50
	if q := r.URL.Query().Get("limit"); q != "" {
		n, err := strconv.Atoi(q)
		if err != nil || n < 1 || n > maxSessions {
			return nil, api.Because(api.ErrBadRequest, "", "limit: want 1 to %d", maxSessions)
		}
		limit = n
	}
	return p.sessions(r.Context(), s, limit)
}

func (p *pages) oneSession(r *http.Request, s scope) (any, error) {
	rec, err := p.sessionRecord(r.Context(), s, access.SessionID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	v, err := p.session(r.Context(), rec, p.spanOf(rec))
	if err != nil {
		return nil, err
	}
	v.Recordings, err = p.recordings(r.Context(), rec.ID)
	return v, err
}

func (p *pages) listActors(r *http.Request, s scope) (any, error) { return p.actors(r.Context(), s) }
