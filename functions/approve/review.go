package approve

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/store"
)

// mayRead says who sees what would run: those who may answer, who asked, and auditors.
func mayRead(rec approval.Record, v viewer) bool {
	return v.All || v.Subject == rec.Lineage.Principal ||
		slices.ContainsFunc(rec.Reviewers, func(g string) bool { return slices.Contains(v.Groups, g) })
}

func (p *pages) record(r *http.Request, v viewer) (approval.Record, store.Item, error) {
	rec, it, err := approval.Get(r.Context(), p.Items, access.ApprovalID(r.PathValue("id")))
	if err == nil && !mayRead(rec, v) {
		err = store.ErrNotFound // whether it exists is not for everybody
	}
	if errors.Is(err, store.ErrNotFound) {
		return approval.Record{}, store.Item{}, api.Because(api.ErrNotFound, "check the link, and who you are signed in as", "there is no such approval for you")
	}
	return rec, it, err
}

// review shows what would run. It never changes anything.
func (p *pages) review(w http.ResponseWriter, r *http.Request) {
	v, ok := p.who(r)
	id := access.ApprovalID(r.PathValue("id"))
	if !ok {
		if r.Method == http.MethodHead { // a scanner: nothing to see
			w.WriteHeader(http.StatusOK)
			return
		}
		p.startFlow(w, r, "/approve/"+string(id), id)
		return
	}
	rec, _, err := p.record(r, v)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	if r.URL.Query().Get("login") != "" { // "sign in for this approval"
		p.startFlow(w, r, "/approve/"+string(id), id)
		return
	}
	now := p.Now()
	may := rec.MayReview(reviewer(v), now)
	p.render(w, http.StatusOK, "review.html", map[string]any{
		"Title": "Review", "Viewer": v, "SignOut": p.cookies.formToken(v.browser, "signout"),
		"A": rec, "Status": rec.StatusAt(now), "Left": left(rec.Expires.Sub(now)), "Now": now,
		"MayNot": may, "Fresh": may == nil && freshFor(v, rec, now), "Form": p.cookies.formToken(v.browser, "verdict "+string(rec.ID)),
		"MaxReason": approval.MaxReason,
	})
}

func reviewer(v viewer) approval.Reviewer {
	return approval.Reviewer{Subject: v.Subject, Groups: v.Groups, AuthTime: v.AuthTime}
}

// freshFor says whether the login was made for this approval and is young enough for a verdict.
func freshFor(v viewer, rec approval.Record, now time.Time) bool {
	return v.For == rec.ID && now.Sub(v.AuthTime) <= approval.FreshLogin
}

// verdict is the only way to answer an approval.
func (p *pages) verdict(w http.ResponseWriter, r *http.Request) {
	v, ok := p.who(r)
	if !ok {
		p.fail(w, r, viewer{}, api.Because(api.ErrLogin, "open the approval's link and sign in", "nobody is signed in"))
		return
	}
	rec, it, err := p.record(r, v)
	if err == nil {
		err = p.decide(r, v, rec, it)
	}
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	http.Redirect(w, r, "/approve/"+string(rec.ID), http.StatusSeeOther)
}

func (p *pages) decide(r *http.Request, v viewer, rec approval.Record, it store.Item) error {
	if err := r.ParseForm(); err != nil {
		return api.Because(api.ErrBadRequest, "", "the form is not well formed or too large")
	}
	if !p.cookies.checkForm(v.browser, "verdict "+string(rec.ID), r.PostForm.Get("form")) {
		return api.Because(api.ErrDenied, "open the approval's page and answer there", "the form is not of this session and approval")
	}
	now := p.Now()
	if err := rec.MayReview(reviewer(v), now); err != nil {
		return err
	}
	if v.For != rec.ID {
		return api.Because(api.ErrLogin, "sign in for this approval", "the login was not made for this approval")
	}
	var after approval.Record
	var err error
	switch reason := r.PostForm.Get("reason"); r.PostForm.Get("verdict") {
	case "approve":
		after, err = rec.Approve(reviewer(v), reason, now)
	case "deny":
		after, err = rec.Deny(reviewer(v), reason, now)
	default:
		err = api.Because(api.ErrBadRequest, "", "the verdict is neither approve nor deny")
	}
	if err != nil {
		return err
	}
	return p.store(r, rec, after, it, now)
}

// store writes the verdict and its entry, both or neither.
func (p *pages) store(r *http.Request, rec, after approval.Record, it store.Item, now time.Time) error {
	put, err := approval.Put(after, store.Cond{Version: it.Version})
	if err != nil {
		return err
	}
	entry, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindVerdict, ID: string(rec.Command), Time: now.UTC(), Agent: rec.Agent, Session: rec.Session, Seq: rec.Seq,
		Target: rec.Target, Lineage: &rec.Lineage, Approval: &audit.Approval{ID: rec.ID, Command: rec.Command, Digest: rec.Digest, Hold: rec.Hold,
			Status: string(after.Status), By: after.By, Reason: after.Reason, Auth: after.AuthTime}})
	if err != nil {
		return err
	}
	err = p.Items.Transact(r.Context(), put, entry)
	if errors.Is(err, store.ErrConflict) {
		return api.Because(api.ErrConflict, "look at the page again", "somebody else was faster, or it was withdrawn")
	}
	if err != nil {
		p.Log.Error("store verdict", "error", err)
		return api.Because(api.ErrUnavailable, "try again", "the verdict could not be stored")
	}
	return nil
}
