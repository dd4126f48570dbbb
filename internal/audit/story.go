package audit

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// thread is what the log holds of one session.
type thread struct {
	open, close *leaf
	openAt      int64
	closeAt     int64
	commands    []int64 // indexes of the leaves
	again       []int64 // openings and ends beyond the first of each
}

// sessions checks that every session's commands follow one another without a gap.
func (v *verifier) sessions() {
	threads := map[access.SessionID]*thread{}
	var order []access.SessionID
	for i := range v.leaves {
		l := &v.leaves[i]
		if l.bad != nil {
			continue
		}
		v.r.Entries++
		v.dated(int64(i), &l.entry)
		if l.entry.Session == "" {
			continue
		}
		t := threads[l.entry.Session]
		if t == nil {
			t = &thread{}
			threads[l.entry.Session] = t
			order = append(order, l.entry.Session)
		}
		switch l.entry.Kind {
		case KindOpen:
			if t.open != nil {
				t.again = append(t.again, int64(i))
				continue
			}
			t.open, t.openAt = l, int64(i)
		case KindClose:
			if t.close != nil {
				t.again = append(t.again, int64(i))
				continue
			}
			t.close, t.closeAt = l, int64(i)
		case KindCommand:
			t.commands = append(t.commands, int64(i))
		}
	}
	v.r.Sessions = len(threads)
	for _, id := range order {
		v.thread(id, threads[id])
	}
}

// clockRoom is how far the clocks of processes may differ that store entries, with what storing takes.
const clockRoom = 5 * time.Minute

// dated tells of an entry that stands behind much later ones: it was made to look older than it is, or a broker's clock was set back.
func (v *verifier) dated(i int64, e *Entry) {
	if e.Time.Before(v.latest.Add(-clockRoom)) {
		v.tell("that entry %d (%s, id %s) was stored at %s, as it says: it stands behind one of %s", i, e.Kind, e.ID, stamp(e.Time), stamp(v.latest))
	} else if e.Time.After(v.latest) {
		v.latest = e.Time
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// tell keeps something that cannot be proven, for the report.
func (v *verifier) tell(format string, args ...any) {
	if len(v.open) >= maxOpen {
		v.more++
		return
	}
	v.open = append(v.open, fmt.Sprintf(format, args...))
}

func (v *verifier) thread(id access.SessionID, t *thread) {
	if t.open == nil {
		v.problem(Problem{Code: CodeChain, Index: -1, Session: id, What: fmt.Sprintf("session %s has entries but no opening", id)})
	}
	for _, i := range t.again {
		v.entryProblem(CodeChain, i, v.leaves[i], "session %s: a second entry of kind %s", id, v.leaves[i].entry.Kind)
	}
	v.r.Commands += len(t.commands)
	slices.SortFunc(t.commands, func(a, b int64) int {
		x, y := v.leaves[a].entry.Seq, v.leaves[b].entry.Seq
		return int(min(max(int64(x)-int64(y), -1), 1))
	})
	prev, want := FirstLink(id), uint64(1)
	for _, i := range t.commands {
		e := v.leaves[i].entry
		if e.Seq != want {
			v.entryProblem(CodeChain, i, v.leaves[i], "session %s: command %d follows command %d", id, e.Seq, want-1)
			want = e.Seq
		} else if e.Prev != prev {
			v.entryProblem(CodeChain, i, v.leaves[i], "session %s: command %d is not chained to the one before it", id, e.Seq)
		}
		if t.open != nil && !sameSession(&e, &t.open.entry) {
			v.entryProblem(CodeChain, i, v.leaves[i], "session %s: command %d is in another name than the session was opened in", id, e.Seq)
		}
		if e.Command == nil || e.Decision == nil {
			v.entryProblem(CodeChain, i, v.leaves[i], "session %s: command %d has no body or decision", id, e.Seq)
			prev, want = "", want+1
			continue
		}
		prev, want = Link(e.Prev, access.CommandID(e.ID), e.Seq, e.Command.Digest), want+1
	}
	if t.close != nil {
		switch e := t.close.entry; {
		case e.Seq != want-1:
			v.entryProblem(CodeChain, t.closeAt, *t.close, "session %s closed after %d commands, the log has %d", id, e.Seq, want-1)
		case e.Prev != "" && e.Prev != prev: // a session closed as lost has no word of its agent
			v.entryProblem(CodeChain, t.closeAt, *t.close, "session %s: its end is not chained to its last command", id)
		}
	}
}

// sameSession says whether a command was decided for whom, through which agent and for which target its session was opened.
func sameSession(e, open *Entry) bool {
	if e.Agent != open.Agent || e.Target != open.Target || (e.Lineage == nil) != (open.Lineage == nil) {
		return false
	}
	return e.Lineage == nil || e.Lineage.Principal == open.Lineage.Principal && slices.EqualFunc(e.Lineage.Path, open.Lineage.Path, func(a, b access.Node) bool { return a.ID == b.ID })
}

// commandKey is which command an entry is about. Its id alone does not say: agents make them, and one may stand in two sessions.
type commandKey struct {
	session access.SessionID
	seq     uint64
	id      access.CommandID
}

func keyOf(e *Entry) commandKey {
	return commandKey{e.Session, e.Seq, access.CommandID(e.ID)}
}

// approvals checks that each claim was for the bytes that were held and approved, once, and that outcomes had leave.
func (v *verifier) approvals() {
	commands, verdicts := map[commandKey]leaf{}, map[access.ApprovalID]leaf{}
	claims := map[access.ApprovalID]int64{}
	outcomes := map[commandKey]bool{}
	v.permitted = map[commandKey]bool{}
	for i, l := range v.leaves {
		switch {
		case l.bad != nil:
		case l.entry.Kind == KindCommand:
			commands[keyOf(&l.entry)] = l
			if d := l.entry.Decision; d != nil && d.Outcome == access.Allow {
				v.permitted[keyOf(&l.entry)] = true
			}
		case l.entry.Kind == KindVerdict && l.entry.Approval != nil:
			if _, twice := verdicts[l.entry.Approval.ID]; twice {
				v.entryProblem(CodeApproval, int64(i), l, "approval %s was answered a second time", l.entry.Approval.ID)
				continue
			}
			verdicts[l.entry.Approval.ID] = l
		}
	}
	for i, l := range v.leaves {
		if l.bad != nil || l.entry.Kind != KindClaim {
			continue
		}
		v.claim(int64(i), l, commands, verdicts, claims)
		if d := l.entry.Decision; d != nil && d.Outcome == access.Allow {
			v.permitted[keyOf(&l.entry)] = true
		}
	}
	v.r.Approvals = len(claims)
	for i, l := range v.leaves {
		if l.bad != nil || l.entry.Kind != KindOutcome {
			continue
		}
		outcomes[keyOf(&l.entry)] = true
		if !v.permitted[keyOf(&l.entry)] {
			v.entryProblem(CodeApproval, int64(i), l, "an outcome of command %s, which nothing permitted", l.entry.ID)
		}
	}
	for k := range v.permitted {
		if !outcomes[k] {
			v.r.Unknown++
		}
	}
}

func (v *verifier) claim(i int64, l leaf, commands map[commandKey]leaf, verdicts map[access.ApprovalID]leaf, claims map[access.ApprovalID]int64) {
	a := l.entry.Approval
	if a == nil {
		v.entryProblem(CodeApproval, i, l, "a claim without an approval")
		return
	}
	if first, twice := claims[a.ID]; twice {
		v.entryProblem(CodeApproval, i, l, "approval %s was used a second time (first by entry %d)", a.ID, first)
		return
	}
	claims[a.ID] = i
	c, ok := commands[keyOf(&l.entry)]
	if !ok || c.entry.Command == nil || c.entry.Decision == nil || c.entry.Decision.Approval != a.ID {
		v.entryProblem(CodeApproval, i, l, "approval %s was used for a command that it was not made for", a.ID)
		return
	}
	verdict, ok := verdicts[a.ID]
	switch {
	case !ok || verdict.entry.Approval.Status != "approved" || keyOf(&verdict.entry) != keyOf(&l.entry):
		v.entryProblem(CodeApproval, i, l, "approval %s was used without a reviewer's yes in the log", a.ID)
	case a.Digest != c.entry.Command.Digest || verdict.entry.Approval.Digest != c.entry.Command.Digest:
		v.entryProblem(CodeApproval, i, l, "approval %s was for other bytes than those of command %s", a.ID, l.entry.ID)
	case c.entry.Lineage != nil && verdict.entry.Approval.By == c.entry.Lineage.Principal:
		v.entryProblem(CodeApproval, i, l, "approval %s was answered by who asked for it", a.ID)
	}
}

// finish writes down what the run proved, and what no run can.
func (v *verifier) finish() Report {
	r := v.r
	r.NotProven = []string{
		"that the agent reported the commands' facts truthfully: it is trusted for what it read off the wire",
		"that nothing ran past the gate: the network must leave no other way to the targets",
		"what happened after the checkpoint: seal and verify again",
		"that whoever may write to the audit table did not add or remove entries before they were sealed, beyond what the sessions' chains show",
	}
	if v.c.Saved == nil {
		r.NotProven = append(r.NotProven, "that the whole log was not replaced by one signed with the same key: keep a checkpoint elsewhere and pass --checkpoint")
	}
	r.NotProven = append(r.NotProven, v.open...)
	if v.more > 0 {
		r.NotProven = append(r.NotProven, fmt.Sprintf("%d further sentences of this kind", v.more))
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int { return a.Code - b.Code })
	if len(r.Problems) > 0 {
		r.Exit = r.Problems[0].Code
		return r
	}
	r.OK = true
	r.Proven = []string{
		fmt.Sprintf("the checkpoint over %d entries is signed by the log's key", v.head.Size),
		"every entry is, byte for byte, what was sealed, and none was removed",
		fmt.Sprintf("%d commands of %d sessions follow one another without a gap", r.Commands, r.Sessions),
		fmt.Sprintf("%d approvals were used, each once, for exactly the bytes that a reviewer approved", r.Approvals),
		"every recorded outcome belongs to a command that was allowed",
	}
	if r.Bodies > 0 {
		r.Proven = append(r.Proven, fmt.Sprintf("the bodies of %d large commands are those that were decided", r.Bodies))
	}
	if r.Recordings > 0 {
		r.Proven = append(r.Proven, fmt.Sprintf("%d recordings are the originals, %d of them to their end", r.Recordings, r.Recordings-r.Running))
	}
	if v.c.Rows != nil {
		r.Proven = append(r.Proven, "the live audit table holds every sealed entry unchanged")
	}
	if v.c.Saved != nil {
		r.Proven = append(r.Proven, "the log extends the saved checkpoint")
	}
	return r
}
