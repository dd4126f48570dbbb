package approve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/recording"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

const (
	// maxRecordings bounds the recordings of one session that a view lists.
	maxRecordings = 500
	// showChunks is how many of the newest chunks a page shows: minutes of a terminal that somebody types at.
	showChunks = 40
	// maxReason bounds the reason for which a session is ended.
	maxReason = 200
)

func recordingView(r recording.Record) api.RecordingView {
	return api.RecordingView{Command: r.Command, Seq: r.Seq, Kind: r.Kind, Name: r.Name, Chunks: r.Next, Bytes: r.Bytes, Started: r.Started, Updated: r.Updated, Ended: r.Ended}
}

func (p *pages) recordings(ctx context.Context, id access.SessionID) ([]api.RecordingView, error) {
	all, err := recording.List(ctx, p.Items, id, maxRecordings)
	if err != nil {
		return nil, err
	}
	views := []api.RecordingView{}
	for _, r := range all {
		views = append(views, recordingView(r))
	}
	return views, nil
}

// recording is one recording of a session that may be seen, with what opens it.
func (p *pages) recording(ctx context.Context, rec session.Record, command string) (recording.Record, []byte, error) {
	none := api.Because(api.ErrNotFound, "list them: sallyport sessions show "+string(rec.ID), "there is no such recording in this session")
	if _, err := session.Time(command); err != nil {
		return recording.Record{}, nil, none
	}
	r, _, err := recording.Get(ctx, p.Items, rec.ID, access.CommandID(command))
	if errors.Is(err, store.ErrNotFound) {
		return recording.Record{}, nil, none
	}
	if err != nil {
		return recording.Record{}, nil, err
	}
	st, err := token.OpenState(p.StateKey, rec.State)
	if err != nil {
		return recording.Record{}, nil, api.Because(api.ErrNotFound, "", "the recording cannot be opened any more: its session's key is gone")
	}
	return r, st.DataKey, nil
}

// chunks reads whole chunks from an index on, as many as an answer has room for.
func (p *pages) chunks(ctx context.Context, r recording.Record, key []byte, from int) (api.ChunksView, error) {
	v := api.ChunksView{From: from, Next: from}
	for v.Next < r.Next && len(v.Data) <= api.MaxChunkBytes-api.MaxChunk {
		place := recording.Place{Session: r.Session, Command: r.Command, Index: v.Next}
		if v.Next == r.Next-1 && r.Ended != "" {
			place.Last, place.Reason = true, r.Ended
		}
		sealed, err := p.Evidence.Open(ctx, audit.RecordingName(r.Session, r.Command, v.Next))
		if err != nil {
			return api.ChunksView{}, fmt.Errorf("recording of %s: %w", r.Command, err)
		}
		plain, err := recording.Open(key, place, sealed)
		if err != nil {
			return api.ChunksView{}, fmt.Errorf("recording of %s: chunk %d is not the original: %w", r.Command, v.Next, err)
		}
		v.Data, v.Next = append(v.Data, plain...), v.Next+1
	}
	if v.Next == r.Next {
		v.Ended = r.Ended
	}
	return v, nil
}

// oneRecording answers with a run of a recording's bytes.
func (p *pages) oneRecording(r *http.Request, s scope) (any, error) {
	rec, err := p.sessionRecord(r.Context(), s, access.SessionID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	tape, key, err := p.recording(r.Context(), rec, r.PathValue("command"))
	if err != nil {
		return nil, err
	}
	from := 0
	if q := r.URL.Query().Get("from"); q != "" {
		if from, err = strconv.Atoi(q); err != nil || from < 0 || from > tape.Next {
			return nil, api.Because(api.ErrBadRequest, "", "from: want 0 to %d", tape.Next)
		}
	}
	return p.chunks(r.Context(), tape, key, from)
}

// oneBody answers with a part of a large command's body: JSON, in pieces of api.MaxChunkBytes.
func (p *pages) oneBody(r *http.Request, s scope) (any, error) {
	rec, err := p.sessionRecord(r.Context(), s, access.SessionID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	none := api.Because(api.ErrNotFound, "sallyport sessions show "+string(rec.ID)+" has the texts of all others", "there is no such large command in this session")
	id := access.CommandID(r.PathValue("command"))
	if _, err := session.Time(string(id)); err != nil {
		return nil, none
	}
	st, err := token.OpenState(p.StateKey, rec.State)
	if err != nil {
		return nil, api.Because(api.ErrNotFound, "", "the body cannot be opened any more: its session's key is gone")
	}
	blob, err := p.Evidence.Open(r.Context(), audit.BodyName(rec.ID, id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, none
	}
	if err != nil {
		return nil, err
	}
	plain, err := audit.PlainLarge(id, st.DataKey, blob)
	if err != nil {
		return nil, err
	}
	pieces := (len(plain) + api.MaxChunkBytes - 1) / api.MaxChunkBytes
	from := 0
	if q := r.URL.Query().Get("from"); q != "" {
		if from, err = strconv.Atoi(q); err != nil || from < 0 || from >= pieces {
			return nil, api.Because(api.ErrBadRequest, "", "from: want 0 to %d", pieces-1)
		}
	}
	v := api.ChunksView{From: from, Next: from + 1, Data: plain[from*api.MaxChunkBytes : min((from+1)*api.MaxChunkBytes, len(plain))]}
	if v.Next == pieces {
		v.Ended = api.ReasonComplete
	}
	return v, nil
}

// endSession ends a session of the caller's, or any for an administrator in person. Its agent hears of it within its next second.
func (p *pages) endSession(r *http.Request, s scope) (any, error) {
	var in api.EndRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	rec, err := p.sessionRecord(r.Context(), s, access.SessionID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	return struct{}{}, p.end(r.Context(), s, rec, in.Reason)
}

// ends says whether s may end a session: who may revoke the actor that opened it, may. An auditor may look.
func (s scope) ends(l access.Lineage) bool {
	own := s
	own.all = false
	return s.admin || own.sees(l)
}

// end writes down who ends a session, then ends it.
func (p *pages) end(ctx context.Context, s scope, rec session.Record, reason string) error {
	switch {
	case !s.ends(rec.Lineage):
		return api.Because(api.ErrDenied, "ask its principal or an administrator", "%s may not end that session", s.principal)
	case reason != "" && !idtoken.PlainText(reason, maxReason):
		return api.Because(api.ErrBadRequest, "", "reason: want at most %d bytes of plain text", maxReason)
	case rec.Status != session.Open:
		return api.Because(api.ErrConflict, "", "the session is %s already", rec.Status)
	}
	now := p.Now().UTC()
	id, err := token.NewID(now)
	if err != nil {
		return err
	}
	by := s.principal
	if s.lineage != nil {
		by = s.lineage.Chain()
	}
	entry, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindRevoke, ID: id, Time: now, Lineage: s.lineage, Target: rec.Target,
		Note: map[string]string{"session": string(rec.ID), "by": by, "reason": reason}})
	if err != nil {
		return err
	}
	if err := p.Items.Put(ctx, entry); err != nil {
		return unanswered(err)
	}
	words := "ended by " + by
	if reason != "" {
		words += ": " + reason
	}
	if err := session.End(ctx, p.Items, rec.ID, words, now); err != nil {
		return unanswered(err)
	}
	return nil
}

func unanswered(err error) error {
	return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
}

// endForm is what the form token of a session's end is about.
func endForm(id access.SessionID) string { return "end " + string(id) }

// endPage is the same for a browser.
func (p *pages) endPage(w http.ResponseWriter, r *http.Request) {
	id := access.SessionID(r.PathValue("id"))
	v, err := p.who(r)
	if err == nil {
		if perr := r.ParseForm(); perr != nil {
			err = api.Because(api.ErrBadRequest, "", "the form is not well formed or too large")
		} else if form, ok := one(r, "form"); !ok || !p.cookies.checkForm(v.browser, endForm(id), form) {
			err = api.Because(api.ErrDenied, "open the session's page and end it there", "the form is not of this browser and session")
		}
	}
	if err == nil {
		s := v.scope()
		var rec session.Record
		if rec, err = p.sessionRecord(r.Context(), s, id); err == nil {
			err = p.end(r.Context(), s, rec, r.PostFormValue("reason"))
		}
	}
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	http.Redirect(w, r, "/sessions/"+string(id), http.StatusSeeOther)
}

// recordingPage shows a recording as text: the newest of it, and more as it comes.
func (p *pages) recordingPage(w http.ResponseWriter, r *http.Request) {
	id := access.SessionID(r.PathValue("id"))
	v, ok := p.ask(w, r, login{next: "/sessions/" + string(id)})
	if !ok {
		return
	}
	rec, err := p.sessionRecord(r.Context(), v.scope(), id)
	var tape recording.Record
	var key []byte
	if err == nil {
		tape, key, err = p.recording(r.Context(), rec, r.PathValue("command"))
	}
	data := p.page(v, "Recording")
	if err == nil {
		err = p.transcript(r.Context(), tape, key, data)
	}
	if err != nil {
		p.fail(w, r, v, err)
		return
	}
	data["S"], data["R"] = sessionView(rec), recordingView(tape)
	p.render(w, http.StatusOK, "recording.html", data)
}

// transcript fills in what a terminal's recording says.
func (p *pages) transcript(ctx context.Context, r recording.Record, key []byte, data map[string]any) error {
	if r.Kind != api.RecordingCast {
		return nil
	}
	var cast recording.Cast
	var text recording.Text
	draw := func(e recording.Event) error {
		if e.Code == "o" {
			text.Write(e.Data)
		}
		return nil
	}
	from := max(r.Next-showChunks, 0)
	if from > 0 {
		cast.Resume()
	}
	for next := from; next < r.Next; {
		run, err := p.chunks(ctx, r, key, next)
		if err != nil {
			return err
		}
		next = run.Next
		if err := cast.Feed(run.Data, draw); err != nil {
			p.Log.Warn("a recording is no cast", "session", r.Session, "command", r.Command, "error", err)
			data["Broken"] = true
			break
		}
	}
	data["Text"], data["Cut"] = text.String(), from > 0 || text.Cut()
	return nil
}
