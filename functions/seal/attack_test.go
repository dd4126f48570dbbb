package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
)

// one stores an open session of one decided command, with the id that its agent chose.
func (w *world) one(t *testing.T, id access.CommandID, outcome access.Outcome) access.SessionID {
	t.Helper()
	sid := access.SessionID(ulid.Make().String())
	now := time.Now().UTC()
	w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: now, Session: sid, Target: "app"})
	w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(id), Time: now, Session: sid, Seq: 1, Prev: audit.FirstLink(sid), Target: "app",
		Command: &audit.Command{Verb: "SELECT", Digest: "d", Normalised: "select $1"}, Decision: &access.Decision{Command: id, Seq: 1, Digest: "d", Outcome: outcome, Rule: "r"}})
	return sid
}

func (w *world) ended(t *testing.T, sid access.SessionID, id access.CommandID) {
	t.Helper()
	w.put(t, audit.Entry{V: 1, Kind: audit.KindOutcome, ID: string(id), Time: time.Now().UTC(), Session: sid, Seq: 1, Target: "app", Result: &access.Result{Status: access.StatusOK}})
}

// Agents make the ids of their commands. One that gives two sessions the same must not make the evidence of others look altered, at no time.
func TestAnAgentCannotSpoilTheEvidenceByAnIDThatItUsesTwice(t *testing.T) {
	w := newWorld(t)
	id := access.CommandID(ulid.Make().String())
	first := w.one(t, id, access.Allow)
	w.ended(t, first, id)
	w.seal(t)
	wantOK(t, w.verify(t, nil))
	w.one(t, id, access.Deny)
	r := w.verify(t, nil) // before the next sealing
	wantOK(t, r)
	if r.Unsealed != 2 {
		t.Errorf("%d entries are not sealed", r.Unsealed)
	}
	w.seal(t)
	wantOK(t, w.verify(t, nil))
}

// The other way round: what was allowed in one session permits nothing in another.
func TestAnOutcomeNeedsTheLeaveOfItsOwnSession(t *testing.T) {
	w := newWorld(t)
	id := access.CommandID(ulid.Make().String())
	denied := w.one(t, id, access.Deny)
	w.one(t, id, access.Allow)
	w.ended(t, denied, id)
	w.seal(t)
	if r := w.verify(t, nil); r.Exit != audit.CodeApproval {
		t.Fatalf("exit %d: %+v", r.Exit, r.Problems)
	}
}

func (w *world) chunk(t *testing.T, sid access.SessionID, id access.CommandID, index int) {
	t.Helper()
	b := []byte(fmt.Sprintf("sealed %d", index))
	sum := sha256.Sum256(b)
	if err := w.blobs.Create(t.Context(), audit.RecordingName(sid, id, index), b); err != nil {
		t.Fatal(err)
	}
	w.put(t, audit.Entry{V: 1, Kind: audit.KindRecording, ID: ulid.Make().String(), Time: time.Now().UTC(), Session: sid, Seq: 1, Target: "app",
		Recording: &audit.Recording{Command: id, Kind: "cast", Index: index, Bytes: 1, Stored: len(b), SHA256: hex.EncodeToString(sum[:])}})
}

// What whoever can write to the audit table, or to the bucket, may try before an entry is sealed.
func TestEntriesThatWereSmuggledInAreNamed(t *testing.T) {
	now := time.Now().UTC()
	for _, tt := range []struct {
		name string
		code int
		tell func(t *testing.T, w *world)
	}{
		{"a recording of a denied command", audit.CodeRecording, func(t *testing.T, w *world) {
			id := access.CommandID(ulid.Make().String())
			w.chunk(t, w.one(t, id, access.Deny), id, 0)
		}},
		{"a recording of no command", audit.CodeRecording, func(t *testing.T, w *world) {
			id := access.CommandID(ulid.Make().String())
			w.chunk(t, w.one(t, id, access.Allow), access.CommandID(ulid.Make().String()), 0)
		}},
		{"a recording whose name leaves its place", audit.CodeRecording, func(t *testing.T, w *world) {
			sid := w.one(t, access.CommandID(ulid.Make().String()), access.Allow)
			w.put(t, audit.Entry{V: 1, Kind: audit.KindRecording, ID: ulid.Make().String(), Time: now, Session: sid, Seq: 1, Target: "app",
				Recording: &audit.Recording{Command: "../../checkpoint", Kind: "cast"}})
		}},
		{"a large body whose name leaves its place", audit.CodeAltered, func(t *testing.T, w *world) {
			sid := access.SessionID("../entries")
			id := access.CommandID(ulid.Make().String())
			w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(id), Time: now, Session: sid, Target: "app"})
			w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(id), Time: now, Session: sid, Seq: 1, Prev: audit.FirstLink(sid), Target: "app",
				Command: &audit.Command{Digest: "d", Large: &audit.Large{Stored: 1}}, Decision: &access.Decision{Outcome: access.Allow}})
		}},
		{"a second opening, in another name", audit.CodeChain, func(t *testing.T, w *world) {
			sid := w.session(t, 2)
			w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: ulid.MustNew(ulid.Now()-120_000, ulid.DefaultEntropy()).String(), Time: now, Session: sid, Target: "app",
				Lineage: &access.Lineage{Principal: "mallory"}})
		}},
		{"a second end", audit.CodeChain, func(t *testing.T, w *world) {
			sid := w.session(t, 2)
			w.put(t, audit.Entry{V: 1, Kind: audit.KindClose, ID: ulid.MustNew(ulid.Now()-120_000, ulid.DefaultEntropy()).String(), Time: now, Session: sid, Target: "app"})
		}},
		{"a command in another name", audit.CodeChain, func(t *testing.T, w *world) {
			sid, id := access.SessionID(ulid.Make().String()), access.CommandID(ulid.Make().String())
			w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: now, Session: sid, Target: "app", Lineage: &access.Lineage{Principal: "mallory"}})
			w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(id), Time: now, Session: sid, Seq: 1, Prev: audit.FirstLink(sid), Target: "app",
				Lineage: &access.Lineage{Principal: "alice"}, Command: &audit.Command{Digest: "d"}, Decision: &access.Decision{Outcome: access.Allow}})
		}},
		{"a yes after a no", audit.CodeApproval, func(t *testing.T, w *world) { w.held(t, "rita", "denied", "approved") }},
		{"a yes of who asked", audit.CodeApproval, func(t *testing.T, w *world) { w.held(t, "alice", "approved") }},
		{"nothing smuggled in", 0, func(t *testing.T, w *world) { w.held(t, "rita", "approved") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.tell(t, w)
			w.seal(t)
			if r := w.verify(t, nil); r.Exit != tt.code {
				t.Fatalf("exit %d, want %d: %+v", r.Exit, tt.code, r.Problems)
			}
		})
	}
}

// held stores alice's held command with verdicts, the last of which was claimed.
func (w *world) held(t *testing.T, by string, verdicts ...string) {
	t.Helper()
	now := time.Now().UTC()
	alice := &access.Lineage{Principal: "alice"}
	sid, id, a := access.SessionID(ulid.Make().String()), ulid.Make().String(), access.ApprovalID(ulid.Make().String())
	w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: now, Session: sid, Lineage: alice})
	w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: id, Time: now, Session: sid, Seq: 1, Prev: audit.FirstLink(sid), Lineage: alice,
		Command: &audit.Command{Digest: "d"}, Decision: &access.Decision{Outcome: access.Hold, Approval: a}})
	for i, v := range verdicts {
		e := audit.Entry{V: 1, Kind: audit.KindVerdict, ID: id, Time: now, Session: sid, Seq: 1, Approval: &audit.Approval{ID: a, Digest: "d", Status: v, By: by}}
		if i < len(verdicts)-1 { // an item of its own, in another minute
			e.ID = ulid.MustNew(ulid.Now()-120_000, ulid.DefaultEntropy()).String()
		}
		w.put(t, e)
	}
	w.put(t, audit.Entry{V: 1, Kind: audit.KindClaim, ID: id, Time: now, Session: sid, Seq: 1, Approval: &audit.Approval{ID: a, Digest: "d"},
		Decision: &access.Decision{Outcome: access.Allow}})
}

// However many recordings have no end, each is told of.
func TestRecordingsWithoutAnEndAreAllToldOf(t *testing.T) {
	w := newWorld(t)
	for range 25 {
		id := access.CommandID(ulid.Make().String())
		w.chunk(t, w.one(t, id, access.Allow), id, 0)
	}
	w.seal(t)
	r := w.verify(t, nil)
	wantOK(t, r)
	told := false
	for _, s := range r.NotProven {
		told = told || bytes.Contains([]byte(s), []byte("5 further sentences"))
	}
	if r.Running != 25 || !told {
		t.Errorf("%d have no end; told: %q", r.Running, r.NotProven)
	}
}

func told(r audit.Report, words string) bool {
	return slices.ContainsFunc(r.NotProven, func(s string) bool { return strings.Contains(s, words) })
}

// An entry that is made to look older than it is stands behind later ones in the log; one that is put where the sealer has been is not in it.
func TestBackdatedEntriesAreToldOf(t *testing.T) {
	w := newWorld(t)
	w.session(t, 1)
	w.put(t, audit.Entry{V: 1, Kind: audit.KindRevoke, ID: ulid.Make().String(), Time: time.Now().UTC().Add(-time.Minute)}) // another process's clock
	w.seal(t)
	if r := w.verify(t, nil); !r.OK || told(r, "it stands behind") || told(r, "does not have it") {
		t.Fatalf("%+v", r)
	}
	late := time.Now().UTC().Add(-time.Hour)
	w.put(t, audit.Entry{V: 1, Kind: audit.KindRevoke, ID: ulid.MustNew(ulid.Timestamp(late), ulid.DefaultEntropy()).String(), Time: late, Note: map[string]string{"reason": "as if it had been then"}})
	if r := w.verify(t, nil); !r.OK || !told(r, "the log of") {
		t.Errorf("a row that is no evidence yet: %q", r.NotProven)
	}
	w.seal(t)
	if r := w.verify(t, nil); !r.OK || !told(r, "it stands behind") {
		t.Errorf("backdated: %q", r.NotProven)
	}
}
