// Package columns turns entries of the log into rows of typed columns, and rows into Parquet, so that any SQL engine can ask.
// It refuses an entry that it does not know in full, and leaves out what the log itself keeps encrypted: a command's exact body.
package columns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
)

// Place is where an entry lies in the log: what leads from a row to its proof.
type Place struct {
	Position int64  // in the log, from 0
	Segment  string // name of its segment
	SHA256   string // of the segment's bytes, hex
	Line     int32  // in the segment, from 1
}

// Row is one entry. What an entry has not is NULL; infra/athena.yaml declares the same columns in the same order, which a test holds.
type Row struct {
	Position int64  `parquet:"position"`
	Segment  string `parquet:"segment,dict"`
	SHA256   string `parquet:"segment_sha256,dict"`
	Line     int32  `parquet:"line"`

	Time    int64  `parquet:"time,timestamp(millisecond)"` // the broker's clock, milliseconds since 1970
	Kind    string `parquet:"kind,dict"`                   // audit.Kind
	ID      string `parquet:"id"`
	Agent   string `parquet:"agent,optional,dict"`
	Session string `parquet:"session,optional,dict"`
	Seq     *int64 `parquet:"seq"`
	// Target and Protocol: the protocol stands in the entry that opens a session, and nowhere else.
	Target   string `parquet:"target,optional,dict"`
	Protocol string `parquet:"protocol,optional,dict"`

	Principal string   `parquet:"principal,optional,dict"`
	Groups    []string `parquet:"groups,list" parquet-element:",dict"`
	Chain     string   `parquet:"chain,optional,dict"` // "alice → coder → tester"
	Actor     string   `parquet:"actor,optional,dict"` // who spoke: the last of Actors
	ActorID   string   `parquet:"actor_id,optional,dict"`
	Actors    []string `parquet:"actors,list" parquet-element:",dict"`    // names, the principal's login first
	ActorIDs  []string `parquet:"actor_ids,list" parquet-element:",dict"` // the same, as ids
	Purpose   string   `parquet:"purpose,optional,dict"`
	Depth     *int32   `parquet:"depth"`
	Assurance *int32   `parquet:"assurance"`

	Command   string   `parquet:"command,optional"` // id of the command that the entry is about
	Verb      string   `parquet:"verb,optional,dict"`
	Statement string   `parquet:"statement,optional"` // normalised: literals out
	Digest    string   `parquet:"digest,optional"`
	Effects   []string `parquet:"effects,list" parquet-element:",dict"`
	Resources []string `parquet:"resources,list" parquet-element:",dict"`        // "read table public.customers"
	Columns   []string `parquet:"resource_columns,list" parquet-element:",dict"` // "public.customers.email", where not all of them take part
	Classes   []string `parquet:"classes,list" parquet-element:",dict"`          // of data that took part
	Database  string   `parquet:"database_name,optional,dict"`
	Role      string   `parquet:"database_role,optional,dict"`
	Complete  *bool    `parquet:"complete"` // false: not understood in full
	Why       string   `parquet:"why,optional,dict"`
	Prepared  *bool    `parquet:"prepared"` // true: prepared, nothing ran

	Outcome  string   `parquet:"outcome,optional,dict"` // deny, hold, allow
	Code     string   `parquet:"code,optional,dict"`
	Rule     string   `parquet:"rule,optional,dict"`
	Reasons  []string `parquet:"reasons,list" parquet-element:",dict"`
	Hint     string   `parquet:"hint,optional,dict"`
	Mask     []string `parquet:"mask,list" parquet-element:",dict"` // classes that had to be masked
	RowLimit *int64   `parquet:"row_limit"`
	Approval string   `parquet:"approval,optional"`
	Hold     string   `parquet:"hold,optional,dict"`

	ApprovalStatus string `parquet:"approval_status,optional,dict"`
	ApprovalBy     string `parquet:"approval_by,optional,dict"`
	ApprovalReason string `parquet:"approval_reason,optional"`
	ApprovalAuth   int64  `parquet:"approval_auth_time,optional,timestamp(millisecond)"` // of the reviewer's login

	Status        string   `parquet:"status,optional,dict"` // how a command ended: access.Status; "unknown" for none
	Tag           string   `parquet:"tag,optional,dict"`
	Rows          *int64   `parquet:"rows"`
	Bytes         *int64   `parquet:"bytes"`
	MaskedClasses []string `parquet:"masked_classes,list" parquet-element:",dict"`
	MaskedValues  *int64   `parquet:"masked_values"` // of all classes
	Beneath       *bool    `parquet:"masked_beneath"`
	Error         string   `parquet:"error,optional,dict"` // the target's code
	DurationUS    *int64   `parquet:"duration_us"`

	RecordingKind   string `parquet:"recording_kind,optional,dict"`
	RecordingName   string `parquet:"recording_name,optional,dict"`
	RecordingIndex  *int32 `parquet:"recording_index"`
	RecordingBytes  *int64 `parquet:"recording_bytes"`
	RecordingSHA256 string `parquet:"recording_sha256,optional"`
	RecordingEnd    string `parquet:"recording_end,optional,dict"` // why it ended, with its last chunk

	Note string `parquet:"note,optional"` // what is particular to the kind, as JSON with sorted keys
}

// Day is the entry's own day, in UTC: 2026-01-02.
func (r *Row) Day() string { return time.UnixMilli(r.Time).UTC().Format(time.DateOnly) }

// Of reads one line of a segment. Unknown fields are an error, as they are for the log.
func Of(line []byte, at Place) (Row, error) {
	var e audit.Entry
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	err := d.Decode(&e)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows the entry")
		}
	}
	if err == nil && e.V != 1 {
		err = fmt.Errorf("version %d is not known", e.V)
	}
	if err != nil {
		return Row{}, fmt.Errorf("%s line %d: %w", at.Segment, at.Line, err)
	}
	r := Row{Position: at.Position, Segment: at.Segment, SHA256: at.SHA256, Line: at.Line, Time: e.Time.UnixMilli(), Kind: string(e.Kind), ID: e.ID,
		Agent: string(e.Agent), Session: string(e.Session), Target: string(e.Target), Protocol: e.Note["protocol"]}
	if e.Seq != 0 {
		r.Seq = ptr(int64(e.Seq)) //nolint:gosec // a count of commands
	}
	if len(e.Note) > 0 {
		b, err := json.Marshal(e.Note)
		if err != nil {
			return Row{}, fmt.Errorf("%s line %d: %w", at.Segment, at.Line, err)
		}
		r.Note = string(b)
	}
	r.lineage(e.Lineage)
	r.about(&e)
	r.decided(e.Decision)
	r.approved(e.Approval)
	r.ended(e.Kind, e.Result)
	return r, nil
}

func (r *Row) lineage(l *access.Lineage) {
	if l == nil {
		return
	}
	r.Principal, r.Groups, r.Chain = l.Principal, l.Groups, l.Chain()
	actor := l.Actor()
	r.Actor, r.ActorID, r.Purpose = actor.Name, string(actor.ID), actor.Purpose
	for _, n := range l.Path {
		r.Actors, r.ActorIDs = append(r.Actors, n.Name), append(r.ActorIDs, string(n.ID))
	}
	r.Depth, r.Assurance = ptr(int32(l.Depth())), ptr(int32(l.Assurance)) //nolint:gosec // both are small
}

// about is what the entry says of a command: itself, or the one that it belongs to.
func (r *Row) about(e *audit.Entry) {
	switch e.Kind {
	case audit.KindCommand, audit.KindOutcome, audit.KindVerdict, audit.KindClaim, audit.KindWithdraw:
		r.Command = e.ID
	}
	if x := e.Recording; x != nil {
		r.Command, r.RecordingKind, r.RecordingName, r.RecordingSHA256, r.RecordingEnd = string(x.Command), x.Kind, x.Name, x.SHA256, x.Reason
		r.RecordingIndex, r.RecordingBytes = ptr(int32(x.Index)), ptr(int64(x.Bytes)) //nolint:gosec // below a million
	}
	c := e.Command
	if c == nil {
		return
	}
	r.Verb, r.Statement, r.Digest, r.Why = c.Verb, c.Normalised, c.Digest, c.Why
	r.Database, r.Role = c.State.Database, c.State.Role
	r.Complete, r.Prepared = ptr(c.Complete), ptr(c.Prepare)
	for _, t := range c.Touches {
		r.Effects = append(r.Effects, string(t.Effect))
		r.Resources = append(r.Resources, strings.Join([]string{string(t.Effect), string(t.Resource.Kind), t.Resource.Name}, " "))
		for _, column := range t.Resource.Columns {
			r.Columns = append(r.Columns, t.Resource.Name+"."+column)
		}
	}
	for _, u := range c.Classes {
		r.Classes = append(r.Classes, u.Class)
	}
	r.Effects, r.Resources, r.Columns, r.Classes = set(r.Effects), set(r.Resources), set(r.Columns), set(r.Classes)
}

func (r *Row) decided(d *access.Decision) {
	if d == nil {
		return
	}
	r.Outcome, r.Code, r.Rule, r.Reasons, r.Hint = d.Outcome.String(), d.Code, d.Rule, d.Reasons, d.Hint
	r.Approval, r.Hold = string(d.Approval), d.HoldName
	for _, o := range d.Obligations {
		switch o.Kind {
		case access.ObligeMask:
			r.Mask = append(r.Mask, o.Classes...)
		case access.ObligeRows:
			if r.RowLimit == nil || o.Limit < *r.RowLimit {
				r.RowLimit = ptr(o.Limit)
			}
		}
	}
	r.Mask = set(r.Mask)
}

func (r *Row) approved(a *audit.Approval) {
	if a == nil {
		return
	}
	r.Approval, r.Hold, r.Command = string(a.ID), a.Hold, string(a.Command)
	r.ApprovalStatus, r.ApprovalBy, r.ApprovalReason = a.Status, a.By, a.Reason
	if !a.Auth.IsZero() {
		r.ApprovalAuth = a.Auth.UnixMilli()
	}
	if r.Digest == "" {
		r.Digest = a.Digest
	}
}

func (r *Row) ended(kind audit.Kind, x *access.Result) {
	if x == nil {
		return
	}
	r.Status, r.Tag, r.Error = string(x.Status), x.Tag, x.Error
	if x.Status == access.StatusUnknown && kind == audit.KindOutcome {
		r.Status = "unknown"
	}
	r.Rows, r.Bytes, r.DurationUS, r.Beneath = ptr(x.Rows), ptr(x.Bytes), ptr(x.Duration), ptr(x.Beneath)
	r.MaskedClasses = slices.Sorted(maps.Keys(x.Masked))
	var n int64
	for _, k := range x.Masked {
		n += k
	}
	r.MaskedValues = ptr(n)
}

func ptr[T any](v T) *T { return &v }

func set(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
