package approve

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
)

//go:embed pages
var pageFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"visible": visible, "clock": clock, "param": param, "dict": dict,
}).ParseFS(pageFiles, "pages/*.html"))

// visible keeps text from being anything but text: control and direction characters are shown by their code, so that nothing
// hides, moves or turns around what a reviewer reads.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar || unicode.In(r, unicode.Bidi_Control, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point):
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func param(p access.Param) string {
	if p.Null {
		return "NULL"
	}
	return strconv.Quote(string(p.Value))
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func left(d time.Duration) string {
	if d <= 0 {
		return "none"
	}
	return d.Round(time.Second).String()
}

// dict hands two values to a nested template.
func dict(kv ...any) (map[string]any, error) {
	m := map[string]any{}
	for i := 0; i+1 < len(kv); i += 2 {
		k, ok := kv[i].(string)
		if !ok {
			return nil, errors.New("dict: keys are strings")
		}
		m[k] = kv[i+1]
	}
	return m, nil
}

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

// fail shows an error: what was refused, and what to do next.
func (p *pages) fail(w http.ResponseWriter, r *http.Request, v viewer, err error) {
	e := (*api.Error)(nil)
	if !errors.As(err, &e) {
		p.Log.Error("internal error", "path", r.URL.Path, "error", err)
		e = api.Because(api.ErrInternal, "the broker's log has the reason", "internal error")
	}
	data := map[string]any{"Title": "Refused", "Text": e.Message, "Hint": e.Hint, "Viewer": v, "Link": "/", "LinkText": "To the live page"}
	if v.Subject != "" {
		data["SignOut"] = p.cookies.formToken(v.browser, "signout")
	}
	p.render(w, e.Status(), "message.html", data)
}

// live is the page that stays open: it works without scripting by reloading itself.
func (p *pages) live(w http.ResponseWriter, r *http.Request) {
	v, ok := p.ask(w, r)
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
	v, ok := p.who(r)
	if !ok {
		http.Error(w, "sign in again", http.StatusUnauthorized)
		return
	}
	data, err := p.liveData(r, v)
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	p.render(w, http.StatusOK, "fragment.html", data)
}

func (p *pages) liveData(r *http.Request, v viewer) (map[string]any, error) {
	s := scope{all: v.All, principal: v.Subject}
	actors, err := p.actors(r.Context(), s)
	if err != nil {
		return nil, err
	}
	pending, err := p.approvals(r.Context(), func(rec approval.Record) bool { return mayRead(rec, v) }, string(approval.Pending))
	if err != nil {
		return nil, err
	}
	denials, err := p.denials(r.Context(), s)
	if err != nil {
		return nil, err
	}
	recent, err := p.sessions(r.Context(), s, 10)
	if err != nil {
		return nil, err
	}
	return map[string]any{"Title": "Live", "Viewer": v, "SignOut": p.cookies.formToken(v.browser, "signout"), "Actors": actors, "Pending": pending,
		"Denials": denials, "Recent": recent, "Now": p.Now(), "Window": denialWindow}, nil
}

func (p *pages) sessionPage(w http.ResponseWriter, r *http.Request) {
	v, ok := p.ask(w, r)
	if !ok {
		return
	}
	s, err := p.session(r.Context(), scope{all: v.All, principal: v.Subject}, access.SessionID(r.PathValue("id")))
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	p.render(w, http.StatusOK, "session.html", map[string]any{"Title": "Session", "Viewer": v, "SignOut": p.cookies.formToken(v.browser, "signout"), "S": s})
}
