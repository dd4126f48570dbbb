package approve

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/session"
)

//go:embed pages
var pageFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"visible": visible, "sentence": sentence, "glance": glance, "clock": clock, "hour": hour, "stamp": stamp, "param": param,
}).ParseFS(pageFiles, "pages/*.html"))

func (p *pages) render(w http.ResponseWriter, status int, name string, data map[string]any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		p.Log.Error("page", "page", name, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the browser went away: there is nobody to tell
}

// page is what every page for a signed-in viewer needs.
func (p *pages) page(v viewer, title string) map[string]any {
	return map[string]any{"Title": title, "Viewer": v, "SignOut": p.cookies.formToken(v.browser, "signout")}
}

// link is where a message leads on to.
type link struct{ To, Text string }

func (p *pages) fail(w http.ResponseWriter, r *http.Request, v viewer, err error) {
	p.failTo(w, r, v, err, link{"/", "To the live page"})
}

// titles of refusals, by kind.
var titles = map[string]string{"login_needed": "Sign in again", "not_found": "Not found", "conflict": "Too late", "unavailable": "Cannot answer now",
	"busy": "Cannot answer now", "internal": "Something is wrong"}

// failTo shows an error: what was refused, and what to do next. What went wrong inside is the log's alone.
func (p *pages) failTo(w http.ResponseWriter, r *http.Request, v viewer, err error, links ...link) {
	e := (*api.Error)(nil)
	if !errors.As(err, &e) {
		e = api.Because(api.ErrInternal, "", "internal error")
	}
	if e.Status() >= http.StatusInternalServerError {
		p.Log.Error("page", "path", r.URL.Path, "error", err)
		switch {
		case e == errProvider || e == errUnsure: // made for people
		case e.Code == api.ErrUnavailable.Code:
			e = api.Because(api.ErrUnavailable, "try again in a moment", "the broker's store did not answer")
		default:
			e = api.Because(api.ErrInternal, "ask whoever runs Sallyport: the broker's log has the reason", "the broker could not make this page")
		}
	}
	title, ok := titles[e.Code]
	if !ok {
		title = "Refused"
	}
	data := map[string]any{"Title": title}
	if v.Subject != "" {
		data = p.page(v, title)
	}
	data["Text"], data["Hint"], data["Links"], data["Bad"], data["Rule"] = e.Message, e.Hint, links, true, e.Rule
	p.render(w, e.Status(), "message.html", data)
}

// live is the page that stays open: it works without scripting by reloading itself.
func (p *pages) live(w http.ResponseWriter, r *http.Request) {
	v, ok := p.ask(w, r, login{next: "/"})
	if !ok {
		return
	}
	data, err := p.liveData(r, v)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	p.render(w, http.StatusOK, "live.html", data)
}

// fragment is what the script replaces every few seconds.
func (p *pages) fragment(w http.ResponseWriter, r *http.Request) {
	v, err := p.who(r)
	if errors.Is(err, errNobody) {
		http.Error(w, "sign in again", http.StatusUnauthorized)
		return
	}
	var data map[string]any
	if err == nil {
		data, err = p.liveData(r, v)
	}
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	p.render(w, http.StatusOK, "fragment.html", data)
}

// Bounds of what the live page shows.
const (
	showDenials  = 30
	showSessions = 10
	showPending  = 50
)

// liveData cuts the watched state down to what the viewer may see.
func (p *pages) liveData(r *http.Request, v viewer) (map[string]any, error) {
	now, err := p.watch.look(r.Context(), p)
	if err != nil {
		return nil, err
	}
	s := scope{all: v.All, principal: v.Subject}
	actors := []api.ActorView{}
	for _, t := range now.trees {
		if s.all || t.Node.Name == s.principal {
			actors = append(actors, t)
		}
	}
	var pending []approval.Record
	for _, rec := range now.pending {
		if mayRead(rec, v) && len(pending) < showPending {
			pending = append(pending, rec)
		}
	}
	var denials []denial
	for _, d := range now.denials {
		if s.sees(d.lineage) && len(denials) < showDenials {
			denials = append(denials, d)
		}
	}
	var recent []api.SessionView
	for _, rec := range now.sessions {
		if s.sees(rec.Lineage) && len(recent) < showSessions {
			recent = append(recent, sessionView(rec))
		}
	}
	data := p.page(v, "Live")
	data["Actors"], data["Pending"], data["Denials"], data["Recent"] = actors, pending, denials, recent
	data["Now"], data["Window"], data["Partial"] = now.at, int(denialWindow.Minutes()), now.partial
	return data, nil
}

// sessionPage shows an hour of a session at a time.
func (p *pages) sessionPage(w http.ResponseWriter, r *http.Request) {
	id := access.SessionID(r.PathValue("id"))
	v, ok := p.ask(w, r, login{next: "/sessions/" + string(id)})
	if !ok {
		return
	}
	rec, err := p.sessionRecord(r.Context(), v.scope(), id)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	all := p.spanOf(rec)
	from := all.from
	if q := r.URL.Query().Get("from"); q != "" {
		if from, err = time.Parse(time.RFC3339, q); err != nil || from.Before(all.from) || from.After(all.to) {
			p.fail(w, r, v, api.Because(api.ErrBadRequest, "open the session's page anew", "the time is not of this session"))
			return
		}
	}
	part := span{from, from.Add(pageSpan)}
	if part.to.After(all.to) {
		part.to = all.to
	}
	s, err := p.session(r.Context(), rec, part)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	tapes, err := p.recordings(r.Context(), rec.ID)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	data := p.page(v, "Session")
	if data["Recordings"] = tapes; rec.Status == session.Open && v.scope().ends(rec.Lineage) {
		data["End"], data["MaxReason"] = p.cookies.formToken(v.browser, endForm(rec.ID)), maxReason
	}
	data["S"], data["Part"], data["Whole"], data["From"], data["To"] = s, part, part == all, part.from, part.to
	if part.from.After(all.from) {
		back := part.from.Add(-pageSpan)
		if back.Before(all.from) {
			back = all.from
		}
		data["Earlier"] = back
	}
	if part.to.Before(all.to) {
		data["Later"] = part.to
	}
	p.render(w, http.StatusOK, "session.html", data)
}
