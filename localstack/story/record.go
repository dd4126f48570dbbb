package story

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
)

// record is step 8.
func (p *player) record(ctx context.Context) error {
	out, code, err := p.cli(ctx, "", "sessions", "ls", "-o", "json")
	if err != nil || code != 0 {
		return fmt.Errorf("sessions ls: exit %d, %w: %s", code, err, out)
	}
	var all []api.SessionView
	if err := parse(out, &all); err != nil {
		return err
	}
	found := struct{ masked, held, denied, byTester bool }{}
	var show string
	for _, s := range all {
		v, err := p.session(ctx, s.ID)
		if err != nil {
			return err
		}
		for _, c := range v.Commands {
			switch {
			case c.Result != nil && c.Result.Masked["email"] == 2 && c.Result.Masked["card"] == 2 && c.Result.Rows == 2:
				found.masked = v.Lineage.Chain() == "alice → coder"
			case c.Approval != nil && string(c.Approval.ID) == p.approved:
				found.held = c.Approval.By == "rita" && strings.Contains(c.Text, update) && c.Result != nil && c.Result.Tag == "UPDATE 1"
			case c.Decision.Outcome == access.Deny && strings.Contains(c.Text, "777003"):
				found.denied, show = c.Decision.Rule != "" && c.Result == nil, string(s.ID)
				found.byTester = v.Lineage.Chain() == "alice → coder → tester"
			}
		}
	}
	if err := check(found.masked && found.held && found.denied && found.byTester,
		"the masked read, the approved update and tester's denials in the record, got %+v", found); err != nil {
		return err
	}
	if out, code, err = p.cli(ctx, "", "approvals", "ls"); err != nil || code != 0 {
		return fmt.Errorf("approvals ls: exit %d, %w: %s", code, err, out)
	}
	if err := contains(out, p.approved); err != nil {
		return fmt.Errorf("approvals ls: %w", err)
	}
	if out, code, err = p.cli(ctx, "", "sessions", "show", show); err != nil || code != 0 {
		return fmt.Errorf("sessions show: exit %d, %w: %s", code, err, out)
	}
	p.show(out)
	p.ok("%d sessions; every command with decision, rule, rows, masked counts, approval and lineage", len(all))
	// Everything ends; the proof needs nothing that runs.
	p.leave()
	p.coderLive, p.testerLive, p.coderRun, p.testerRun = nil, nil, nil, nil
	if err := p.system.finish(); err != nil {
		return err
	}
	return p.verify(ctx)
}

func (p *player) session(ctx context.Context, id access.SessionID) (api.SessionView, error) {
	out, code, err := p.cli(ctx, "", "sessions", "show", string(id), "-o", "json")
	if err != nil || code != 0 {
		return api.SessionView{}, fmt.Errorf("sessions show: exit %d, %w: %s", code, err, out)
	}
	var v api.SessionView
	return v, parse(out, &v)
}

// verify runs `audit verify` on the record, then on copies with one byte changed and one entry removed.
func (p *player) verify(ctx context.Context) error {
	out, code, err := p.cli(ctx, "", "audit", "verify", "--dir", p.data)
	if err != nil || code != 0 {
		return fmt.Errorf("audit verify: exit %d, %w: %s", code, err, out)
	}
	p.show(out)
	if err := contains(out, "proven", "the record is whole"); err != nil {
		return err
	}
	p.ok("audit verify, with nothing running")
	if err := p.copies(ctx); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(p.data, "evidence", "entries", "*.jsonl"))
	if err != nil || len(segments) == 0 {
		return fmt.Errorf("no segments of evidence: %w", err)
	}
	file := segments[len(segments)/2]
	whole, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	line := bytes.SplitAfter(whole, []byte("\n"))[0]
	var e audit.Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	altered := bytes.Clone(whole)
	altered[len(line)/2] ^= 1
	for _, t := range []struct {
		what  string
		bytes []byte
		code  int
	}{{"one byte changed", altered, audit.CodeAltered}, {"one entry removed", whole[len(line):], audit.CodeRemoved}} {
		if len(t.bytes) == 0 { // the segment had one entry
			err = os.Remove(file)
		} else {
			err = os.WriteFile(file, t.bytes, 0o600)
		}
		if err != nil {
			return err
		}
		out, code, err := p.cli(ctx, "", "audit", "verify", "--dir", p.data)
		if err != nil {
			return err
		}
		name := e.ID
		if _, ok := p.system.(*cloud); ok {
			name = "after it was sealed" // without the table beside the log, nothing may know what was there
		}
		if err := errors.Join(check(code == t.code, "%s: exit code %d, got %d: %s", t.what, t.code, code, out), contains(out, name)); err != nil {
			return err
		}
		p.ok("%s: exit code %d, and it says of entry %s (%s): %s", t.what, code, e.ID, e.Kind, said(out, name))
	}
	return os.WriteFile(file, whole, 0o600)
}

// said is the line of out that has text in it.
func said(out, text string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, text) {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return ""
}
