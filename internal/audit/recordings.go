package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

// lateEnd is how long after a session was closed in order the end of its recordings may still be on its way.
const lateEnd = time.Hour

// maxOpen bounds the sentences about single entries and recordings that prove nothing.
const maxOpen = 20

// tape is what the log holds of one recording.
type tape struct {
	session access.SessionID
	command access.CommandID
	chunks  []int64 // indexes of the leaves
}

func (t *tape) String() string {
	return fmt.Sprintf("the recording of command %s in session %s", t.command, t.session)
}

// recordings checks that every recording is the one that came: each chunk there, in its place, unchanged, from the first to the last.
func (v *verifier) recordings(ctx context.Context) error {
	tapes := map[string]*tape{}
	var order []*tape
	closed := map[access.SessionID]Entry{}
	for i, l := range v.leaves {
		switch e := l.entry; {
		case l.bad != nil:
		case e.Kind == KindClose:
			closed[e.Session] = e
		case e.Kind == KindRecording && e.Recording != nil:
			name := string(e.Session) + "/" + string(e.Recording.Command)
			t := tapes[name]
			if t == nil {
				t = &tape{session: e.Session, command: e.Recording.Command}
				tapes[name], order = t, append(order, t)
			}
			t.chunks = append(t.chunks, int64(i))
		}
	}
	v.r.Recordings = len(order)
	for _, t := range order {
		if err := v.tape(ctx, t, closed); err != nil {
			return err
		}
	}
	return v.strays(ctx, tapes)
}

func (v *verifier) tape(ctx context.Context, t *tape, closed map[access.SessionID]Entry) error {
	at := func(i int64) *Recording { return v.leaves[i].entry.Recording }
	first := v.leaves[t.chunks[0]]
	if !isID(string(t.session)) || !isID(string(t.command)) {
		v.entryProblem(CodeRecording, t.chunks[0], first, "a recording of no command: %.80q in session %.80q", t.command, t.session)
		return nil
	}
	if !v.permitted[commandKey{t.session, first.entry.Seq, t.command}] {
		v.entryProblem(CodeRecording, t.chunks[0], first, "%s, which nothing permitted", t)
	}
	slices.SortStableFunc(t.chunks, func(a, b int64) int { return at(a).Index - at(b).Index })
	for n, i := range t.chunks {
		c := at(i)
		switch {
		case v.leaves[i].entry.Seq != first.entry.Seq || c.Kind != at(t.chunks[0]).Kind:
			v.entryProblem(CodeRecording, i, v.leaves[i], "%s: chunk %d is of another command or kind", t, c.Index)
			continue
		case n > 0 && c.Index == at(t.chunks[n-1]).Index:
			v.entryProblem(CodeRecording, i, v.leaves[i], "%s has a second chunk %d", t, c.Index)
			continue
		case n == 0 && c.Index != 0:
			v.entryProblem(CodeRecording, i, v.leaves[i], "%s begins with chunk %d", t, c.Index)
		case n > 0 && c.Index != at(t.chunks[n-1]).Index+1:
			v.entryProblem(CodeRecording, i, v.leaves[i], "%s: chunk %d follows chunk %d", t, c.Index, at(t.chunks[n-1]).Index)
		case n > 0 && at(t.chunks[n-1]).Last:
			v.entryProblem(CodeRecording, i, v.leaves[i], "%s goes on after its last chunk", t)
		}
		if err := v.chunk(ctx, t, i); err != nil {
			return err
		}
	}
	if at(t.chunks[len(t.chunks)-1]).Last {
		return nil
	}
	v.r.Running++
	end, over := closed[t.session]
	lost := strings.HasPrefix(end.Note["reason"], "lost")
	if over && !lost && v.head.Time.Sub(end.Time) > lateEnd {
		last := t.chunks[len(t.chunks)-1]
		v.entryProblem(CodeRecording, last, v.leaves[last], "%s has no end, though its session was closed at %s", t, end.Time.UTC().Format(time.RFC3339))
		return nil
	}
	v.tell("that %s is complete: its end is not in the log (it runs, or its agent was lost)", t)
	return nil
}

// chunk holds the stored bytes against the entry.
func (v *verifier) chunk(ctx context.Context, t *tape, i int64) error {
	c := v.leaves[i].entry.Recording
	b, err := v.c.Blobs.Open(ctx, RecordingName(t.session, t.command, c.Index))
	switch {
	case errors.Is(err, store.ErrNotFound):
		v.entryProblem(CodeRecording, i, v.leaves[i], "%s: chunk %d is gone", t, c.Index)
		return nil
	case errors.Is(err, store.ErrTooLarge):
		v.entryProblem(CodeRecording, i, v.leaves[i], "%s: chunk %d is not the one that was sealed", t, c.Index)
		return nil
	case err != nil:
		return fmt.Errorf("read chunk %d of %s: %w", c.Index, t, err)
	}
	if sum := sha256.Sum256(b); len(b) != c.Stored || hex.EncodeToString(sum[:]) != c.SHA256 {
		what := "was altered"
		if len(v.r.Problems) < maxProblems { // what is not told need not be looked for
			if other := v.holder(hex.EncodeToString(sum[:])); other != "" {
				what = "is " + other
			}
		}
		v.entryProblem(CodeRecording, i, v.leaves[i], "%s: chunk %d %s", t, c.Index, what)
	}
	return nil
}

// holder says which chunk some bytes are the original of; "" is none.
func (v *verifier) holder(sum string) string {
	for _, l := range v.leaves {
		if r := l.entry.Recording; l.bad == nil && r != nil && r.SHA256 == sum {
			return fmt.Sprintf("chunk %d of command %s, put in its place", r.Index, r.Command)
		}
	}
	return ""
}

// strays finds chunks that belong to no recording of the log nor of the table: a crash between blob and entry leaves one at most at a
// recording's end; anything else was put there.
func (v *verifier) strays(ctx context.Context, tapes map[string]*tape) error {
	names, err := v.c.Blobs.List(ctx, RecordingPrefix)
	if err != nil {
		return fmt.Errorf("list recordings: %w", err)
	}
	known := map[string]bool{}
	for _, t := range tapes {
		n := 0
		for _, i := range t.chunks {
			n = v.leaves[i].entry.Recording.Index
			known[RecordingName(t.session, t.command, n)] = true
		}
		known[RecordingName(t.session, t.command, n+1)] = true
	}
	for _, l := range v.rows {
		if r := l.entry.Recording; l.bad == nil && r != nil {
			known[RecordingName(l.entry.Session, r.Command, r.Index)], known[RecordingName(l.entry.Session, r.Command, r.Index+1)] = true, true
		}
	}
	n := 0
	for _, name := range names {
		if !known[name] && !strings.HasSuffix(name, "/000000") {
			n++
		}
	}
	if n > 0 {
		v.open = append(v.open, fmt.Sprintf("anything about %d stored chunks that no entry names: they belong to no recording, or to one that is not sealed yet", n))
	}
	return nil
}
