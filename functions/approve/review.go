package approve

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/store"
)

// mayRead says who sees what would run: those who may answer, who asked, and auditors.
func mayRead(rec approval.Record, v viewer) bool {
	return v.All || v.Subject == rec.Lineage.Principal ||
		slices.ContainsFunc(rec.Reviewers, func(g string) bool { return slices.Contains(v.Groups, g) })
}

// errNoApproval is one answer for what is not there and what is not theirs.
var errNoApproval = api.Because(api.ErrNotFound, "check the link, and who you are signed in as", "there is no such approval for you")

func (p *pages) record(r *http.Request, v viewer) (approval.Record, store.Item, error) {
	rec, it, err := approval.Get(r.Context(), p.Items, access.ApprovalID(r.PathValue("id")))
	if err == nil && !mayRead(rec, v) {
		err = store.ErrNotFound // whether it exists is not for everybody
	}
	if errors.Is(err, store.ErrNotFound) {
		return approval.Record{}, store.Item{}, errNoApproval
	}
	return rec, it, err
}

// review shows what would run. It never changes anything: to sign in for a verdict is a login, which is the browser's alone.
func (p *pages) review(w http.ResponseWriter, r *http.Request) {
	id := access.ApprovalID(r.PathValue("id"))
	if !approvalShape.MatchString(string(id)) {
		p.fail(w, r, viewer{}, errNoApproval)
		return
	}
	here := login{next: "/approve/" + string(id), approval: id}
	v, ok := p.ask(w, r, here)
	if !ok {
		return
	}
	if r.URL.Query().Get("login") != "" { // also where the record is not for this viewer: for whom it is, logs in here
		p.startFlow(w, r, here)
		return
	}
	rec, _, err := p.record(r, v)
	if err != nil {
		p.failTo(w, r, v, err, loginFor(id, "Sign in as somebody else"))
		return
	}
	now := p.Now()
	status, may := rec.StatusAt(now), rec.MayReview(reviewer(v), now)
	fresh := may == nil && freshFor(v, rec, now)
	data := p.page(v, "Review")
	data["A"], data["Text"], data["Prepared"], data["Masked"], data["Status"], data["Left"] = rec, exact(rec.Text), exact(rec.State.Prepared), exact(rec.Masked), string(status), left(rec.Expires.Sub(now))
	data["MayNot"], data["Fresh"], data["Form"], data["MaxReason"] = may, fresh, p.cookies.formToken(v.browser, verdictForm(rec)), approval.MaxReason
	data["Login"] = loginFor(id, "Sign in to answer")
	data["Follow"] = status == approval.Approved || status == approval.Pending && may != nil // nothing is typed there: the page may reload itself
	p.render(w, http.StatusOK, "review.html", data)
}

func loginFor(id access.ApprovalID, text string) link {
	return link{"/approve/" + string(id) + "?login=1", text}
}

// verdictForm is what a verdict's form token is about: this approval and the bytes that its page shows.
func verdictForm(rec approval.Record) string { return "verdict " + string(rec.ID) + " " + rec.Digest }

func reviewer(v viewer) approval.Reviewer {
	return approval.Reviewer{Subject: v.Subject, Groups: v.Groups, AuthTime: v.AuthTime}
}

// freshFor says whether the login was made for this approval and is young enough for a verdict: what approval.Record.Approve will ask.
func freshFor(v viewer, rec approval.Record, now time.Time) bool {
	_, err := rec.Approve(reviewer(v), "", now)
	return v.For == rec.ID && err == nil
}

// verdict is the only way to answer an approval.
func (p *pages) verdict(w http.ResponseWriter, r *http.Request) {
	id := access.ApprovalID(r.PathValue("id"))
	v, err := p.who(r)
	var rec approval.Record
	var it store.Item
	if err == nil {
		rec, it, err = p.record(r, v)
	}
	if err == nil {
		err = p.decide(r, v, rec, it)
	}
	switch {
	case err == nil:
		http.Redirect(w, r, "/approve/"+string(rec.ID), http.StatusSeeOther)
	case errors.Is(err, api.ErrLogin) && approvalShape.MatchString(string(id)):
		p.failTo(w, r, v, err, loginFor(id, "Sign in to answer"))
	case rec.ID != "":
		p.failTo(w, r, v, err, link{"/approve/" + string(rec.ID), "Back to the approval"})
	default:
		p.fail(w, r, v, err)
	}
}

// one is a form field that is there exactly once.
func one(r *http.Request, name string) (string, bool) {
	vs := r.PostForm[name]
	if len(vs) != 1 {
		return "", false
	}
	return vs[0], true
}

func (p *pages) decide(r *http.Request, v viewer, rec approval.Record, it store.Item) error {
	if err := r.ParseForm(); err != nil {
		return api.Because(api.ErrBadRequest, "", "the form is not well formed or too large")
	}
	form, ok := one(r, "form")
	if !ok || !p.cookies.checkForm(v.browser, verdictForm(rec), form) {
		return api.Because(api.ErrDenied, "open the approval's page and answer there", "the form is not of this session and approval")
	}
	now := p.Now()
	if err := rec.MayReview(reviewer(v), now); err != nil {
		return err
	}
	if v.For != rec.ID {
		return api.Because(api.ErrLogin, "sign in for this approval", "the login was not made for this approval")
	}
	reason := r.PostForm.Get("reason")
	if reason != "" && len(reason) <= approval.MaxReason && !idtoken.PlainText(reason, approval.MaxReason) {
		return api.Because(api.ErrBadRequest, "write it in one line of plain text", "the reason has characters that cannot be shown")
	}
	var after approval.Record
	var err error
	switch word, _ := one(r, "verdict"); word {
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

// errUnsure is the answer where the store did not say whether it has the verdict.
var errUnsure = api.Because(api.ErrUnavailable, "look at the approval's page whether it is answered", "it is not known whether the verdict was stored")

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
		return fmt.Errorf("store verdict on %s: %w", rec.ID, errors.Join(errUnsure, err))
	}
	return nil
}
