package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/recording"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// chunkWriters bounds the recordings that are written side by side in one call.
const chunkWriters = 16

// chunkTries bounds the compare-and-swap on a recording's record: only the same chunk, delivered twice at once, competes.
const chunkTries = 4

// tape is the part of a call that belongs to one recording.
type tape struct {
	session access.SessionID
	command access.CommandID
	chunks  []*api.Chunk
	refused []api.RefusedChunk
}

// chunks answers once everything is stored that may be; what may not is named, so that its sender does not try for ever.
func (h *handler) chunks(ctx context.Context, agent token.Agent, req *api.ChunksRequest) (api.ChunksResponse, error) {
	now := h.Now().UTC()
	size := 0
	var tapes []*tape
	by := map[access.CommandID]*tape{}
	for i := range req.Chunks {
		c := &req.Chunks[i]
		size += len(c.Data)
		t := by[c.Command]
		if t == nil || t.session != c.Session {
			t = &tape{session: c.Session, command: c.Command}
			by[c.Command], tapes = t, append(tapes, t)
		}
		t.chunks = append(t.chunks, c)
	}
	if len(req.Chunks) > api.MaxChunkBatch || size > api.MaxChunkBytes {
		return api.ChunksResponse{}, api.Because(api.ErrTooLarge, "send them in turns", "more than %d chunks or %d bytes", api.MaxChunkBatch, api.MaxChunkBytes)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(chunkWriters)
	for _, t := range tapes {
		g.Go(func() error { return h.tape(ctx, agent, t, now) })
	}
	if err := g.Wait(); err != nil {
		return api.ChunksResponse{}, err
	}
	var resp api.ChunksResponse
	for _, t := range tapes {
		resp.Refused = append(resp.Refused, t.refused...)
	}
	return resp, nil
}

// errRefused wraps the reason why a chunk will never be stored.
type errRefused string

func (e errRefused) Error() string { return string(e) }

func refuse(format string, args ...any) error { return errRefused(fmt.Sprintf(format, args...)) }

// tape stores chunks in order, up to the first that is refused.
func (h *handler) tape(ctx context.Context, agent token.Agent, t *tape, now time.Time) error {
	st, err := h.tapeState(ctx, agent, t)
	for _, c := range t.chunks {
		if err == nil {
			err = h.chunk(ctx, st, t, c, now)
		}
		why := errRefused("")
		if err != nil && !errors.As(err, &why) {
			return err
		}
		if err != nil {
			h.Log.Warn("chunk refused", "agent", agent.Name, "session", t.session, "command", t.command, "index", c.Index, "reason", err)
			t.refused = append(t.refused, api.RefusedChunk{Session: t.session, Command: t.command, Index: c.Index, Why: string(why)})
		}
	}
	return nil
}

// tapeState is the session's state, with its keys, where the session is this agent's.
func (h *handler) tapeState(ctx context.Context, agent token.Agent, t *tape) (token.State, error) {
	if _, err := session.Time(string(t.session)); err != nil {
		return token.State{}, refuse("not a session of this agent")
	}
	if _, err := session.Time(string(t.command)); err != nil {
		return token.State{}, refuse("not a command of this session")
	}
	rec, _, err := session.Get(ctx, h.Items, t.session)
	if errors.Is(err, store.ErrNotFound) || err == nil && rec.Agent != agent.Name {
		return token.State{}, refuse("not a session of this agent")
	}
	if err != nil {
		return token.State{}, err
	}
	st, err := token.OpenState(h.StateKey, rec.State)
	if err != nil || st.Session != t.session {
		return token.State{}, refuse("the session's key is gone")
	}
	return st, nil
}

// malformedChunk says what is wrong with a chunk by itself; "" is nothing.
func malformedChunk(c *api.Chunk) string {
	switch {
	case c.Kind != api.RecordingCast && c.Kind != api.RecordingFile:
		return "its kind is not known"
	case c.Index < 0 || c.Index >= api.MaxChunks:
		return fmt.Sprintf("a recording has no more than %d chunks", api.MaxChunks)
	case len(c.Data) > api.MaxChunk:
		return fmt.Sprintf("it is over %d bytes", api.MaxChunk)
	case len(c.Data) == 0 && !c.Last:
		return "it is empty"
	case len(c.Name) > api.MaxRecorded || c.Index > 0 && c.Name != "" || !plain(c.Name):
		return "its name is no name"
	case c.Last != (c.Reason != ""):
		return "the last chunk has a reason, and no other one has"
	}
	switch c.Reason {
	case "", api.ReasonComplete, api.ReasonSession, api.ReasonInterrupted:
		return ""
	}
	return "its reason is not known"
}

func plain(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// chunk stores one chunk: the sealed bytes first, which harm nobody without an entry, then the entry and the recording's new state,
// both or neither.
func (h *handler) chunk(ctx context.Context, st token.State, t *tape, c *api.Chunk, now time.Time) error {
	if why := malformedChunk(c); why != "" {
		return refuse("%s", why)
	}
	sealed, err := recording.Seal(st.DataKey, recording.Place{Session: t.session, Command: t.command, Index: c.Index, Last: c.Last, Reason: c.Reason}, c.Data)
	if err != nil {
		return err
	}
	stored := false
	for range chunkTries {
		rec, version, err := h.recorded(ctx, st, t, c, now)
		if err != nil {
			return err
		}
		switch {
		case rec.Seq != c.Seq || rec.Kind != c.Kind:
			return refuse("the recording is of another command or kind")
		case c.Index > rec.Next:
			return refuse("chunk %d is missing before it", rec.Next)
		case c.Index == rec.Next && rec.Ended != "":
			return refuse("the recording has ended")
		}
		if !stored {
			err := h.Blobs.Create(ctx, audit.RecordingName(t.session, t.command, c.Index), sealed)
			if errors.Is(err, store.ErrConflict) {
				return refuse("another chunk %d is stored", c.Index)
			}
			if err != nil {
				return err
			}
			stored = true
		}
		if c.Index < rec.Next {
			return nil // delivered again
		}
		err = h.enter(ctx, st, rec, version, c, sealed, now)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("recording of %s: %w", t.command, store.ErrConflict)
}

// recorded is the recording's state, or that of one which may begin.
func (h *handler) recorded(ctx context.Context, st token.State, t *tape, c *api.Chunk, now time.Time) (recording.Record, int64, error) {
	rec, it, err := recording.Get(ctx, h.Items, t.session, t.command)
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return rec, it.Version, err
	}
	find := commands{items: h.Items, session: t.session}
	allowed, err := find.allowed(ctx, &api.Outcome{Session: t.session, Command: t.command, Seq: c.Seq})
	if err != nil {
		return recording.Record{}, 0, err
	}
	if !allowed {
		return recording.Record{}, 0, refuse("nothing allowed the command")
	}
	return recording.Record{Session: t.session, Command: t.command, Seq: c.Seq, Agent: st.Agent, Kind: c.Kind, Name: c.Name, Started: now}, 0, nil
}

// enter stores a chunk's entry together with the recording's new state.
func (h *handler) enter(ctx context.Context, st token.State, rec recording.Record, version int64, c *api.Chunk, sealed []byte, now time.Time) error {
	id, err := token.NewID(now)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(sealed)
	entry, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindRecording, ID: id, Time: now, Agent: st.Agent, Session: rec.Session, Seq: rec.Seq,
		Target: st.Target, Lineage: &st.Lineage, Note: map[string]string{"recorded": c.Time.UTC().Format(time.RFC3339Nano)},
		Recording: &audit.Recording{Command: rec.Command, Kind: rec.Kind, Name: c.Name, Index: c.Index, Bytes: len(c.Data), Stored: len(sealed),
			SHA256: hex.EncodeToString(sum[:]), Last: c.Last, Reason: c.Reason}})
	if err != nil {
		return err
	}
	rec.Next, rec.Bytes, rec.Updated, rec.Ended = c.Index+1, rec.Bytes+int64(len(c.Data)), now, c.Reason
	put, err := rec.Put(store.Cond{Version: version})
	if err != nil {
		return err
	}
	return h.Items.Transact(ctx, put, entry)
}
