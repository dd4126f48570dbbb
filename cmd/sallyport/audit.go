package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

// evidenceKeyFile is the log's verifier key below a directory of evidence.
const evidenceKeyFile = "log.pub"

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Verify, follow or copy the evidence",
		Long: "The evidence is a log of every decision and outcome, sealed under signed checkpoints. It can be verified with nothing running."}
	c.AddCommand(auditVerifyCommand(), auditTailCommand(), auditCopiesCommand())
	return c
}

// exitStatus ends the program with a code of its own after everything was printed.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func auditVerifyCommand() *cobra.Command {
	var where, key, saved, output string
	c := &cobra.Command{
		Use:   "verify --dir DIR",
		Short: "Prove offline that the record is whole",
		Long: `Recompute the whole log from its bytes and hold it against the signed checkpoint and the live table.

Exit codes: 0 proven, 10 an entry was altered, 11 one was removed, 12 the checkpoint is missing or not signed by the key,
13 a session's commands do not follow one another, 14 an approval was not for what ran, 15 a recording is not the original, or not all of it.`,
		Example: `  sallyport audit verify --dir ./data
  cp data/evidence/checkpoint kept-elsewhere
  sallyport audit verify --dir ./data --checkpoint kept-elsewhere -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if where == "" {
				return api.Because(api.ErrBadRequest, "name the directory that `sallyport dev --dir` was given", "--dir is missing")
			}
			r, err := verifyDir(c.Context(), where, key, saved)
			if err != nil {
				return err
			}
			if output == "json" {
				if err := printJSON(c.OutOrStdout(), r); err != nil {
					return err
				}
			} else {
				printReport(c.OutOrStdout(), r)
			}
			if r.Exit != 0 {
				return exitStatus(r.Exit)
			}
			return nil
		},
	}
	c.Flags().StringVar(&where, "dir", "", "data directory of the embedded system, or a copy of it")
	c.Flags().StringVar(&key, "key", "", "file with the log's verifier key (default DIR/evidence/log.pub); keep your own copy")
	c.Flags().StringVar(&saved, "checkpoint", "", "file with a checkpoint kept from earlier: nothing it covers may be gone")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func verifyDir(ctx context.Context, where, keyFile, savedFile string) (audit.Report, error) {
	evidence := filepath.Join(where, "evidence")
	if info, err := os.Stat(evidence); err != nil || !info.IsDir() {
		return audit.Report{}, api.Because(api.ErrNotFound, "want the directory that `sallyport dev --dir` was given", "no evidence in %s", where)
	}
	blobs, err := dir.Open(evidence)
	if err != nil {
		return audit.Report{}, err
	}
	defer func() { _ = blobs.Close() }() // read only
	if keyFile == "" {
		keyFile = filepath.Join(evidence, evidenceKeyFile)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return audit.Report{}, fmt.Errorf("read the log's key: %w", err)
	}
	c := audit.VerifyConfig{Blobs: blobs, Heads: blobs, Key: string(key)}
	if savedFile != "" {
		if c.Saved, err = os.ReadFile(savedFile); err != nil {
			return audit.Report{}, fmt.Errorf("read the saved checkpoint: %w", err)
		}
	}
	table := filepath.Join(where, "broker", "store.db")
	if _, err := os.Stat(table); err == nil {
		db, err := sqlite.OpenReadOnly(table)
		if err != nil {
			return audit.Report{}, fmt.Errorf("open the audit table: %w", err)
		}
		defer func() { _ = db.Close() }() // read only
		c.Rows = db
	}
	return audit.Verify(ctx, c)
}

func printReport(w io.Writer, r audit.Report) {
	// What it says quotes entries and names of files, which may be anybody's: none of it moves the cursor or begins a line.
	p := func(format string, args ...any) {
		line := strings.TrimSuffix(fmt.Sprintf(format, args...), "\n")
		_, _ = fmt.Fprintln(w, inline(line))
	}
	if r.Checkpoint.Origin != "" {
		p("checkpoint   %s, %d entries, signed %s\n", r.Checkpoint.Origin, r.Checkpoint.Size, r.Checkpoint.Time)
		p("contents     %d sessions, %d commands, %d approvals used, %d outcomes unknown, %d entries not sealed yet\n",
			r.Sessions, r.Commands, r.Approvals, r.Unknown, r.Unsealed)
	}
	for _, s := range r.Proven {
		p("proven       %s\n", s)
	}
	for _, s := range r.NotProven {
		p("not proven   %s\n", s)
	}
	for _, x := range r.Problems {
		p("PROBLEM %d   %s\n", x.Code, x.What)
	}
	if r.OK {
		p("the record is whole\n")
	} else {
		p("THE RECORD IS NOT WHOLE (exit %d)\n", r.Exit)
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// followEvery is how often `tail -f` looks again.
const followEvery = 300 * time.Millisecond

func auditTailCommand() *cobra.Command {
	var where, output string
	var follow bool
	var last int
	c := &cobra.Command{
		Use:     "tail --dir DIR",
		Short:   "Print the newest entries, and with -f those to come",
		Example: "  sallyport audit tail --dir ./data -f",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			db, err := sqlite.OpenReadOnly(filepath.Join(where, "broker", "store.db"))
			if err != nil {
				return api.Because(api.ErrNotFound, "want the directory that `sallyport dev --dir` was given", "no audit table in %q", where)
			}
			defer func() { _ = db.Close() }() // read only
			return tail(c.Context(), c.OutOrStdout(), db, last, follow, output == "json")
		},
	}
	c.Flags().StringVar(&where, "dir", "", "data directory of the embedded system")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	c.Flags().IntVarP(&last, "lines", "n", 20, "how many of the newest to begin with")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json (one entry a line)")
	return c
}

func tail(ctx context.Context, w io.Writer, feed store.Feed, last int, follow, asJSON bool) error {
	after := ""
	var ring []audit.Entry
	started := false
	for {
		items, next, err := feed.Since(ctx, store.Audit, after, 500)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		after = next
		for _, it := range items {
			entries, err := audit.Decode(it)
			if err != nil {
				return err
			}
			ring = append(ring, entries...)
		}
		if !started && len(ring) > last {
			ring = ring[len(ring)-last:]
		}
		if len(items) > 0 && !started {
			continue
		}
		started = true
		for _, e := range ring {
			if err := printEntry(w, e, asJSON); err != nil {
				return err
			}
		}
		ring = ring[:0]
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

func printEntry(w io.Writer, e audit.Entry, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(e)
	}
	who, what := "", ""
	if e.Lineage != nil {
		who = e.Lineage.Chain()
	}
	switch {
	case e.Command != nil && e.Decision != nil:
		what = fmt.Sprintf("%-5s %s (%s)", e.Decision.Outcome, e.Command.Normalised, e.Decision.Rule)
	case e.Result != nil:
		what = fmt.Sprintf("%s, %d rows, masked %v", statusOf(e.Result.Status), e.Result.Rows, e.Result.Masked)
	case e.Recording != nil:
		what = fmt.Sprintf("chunk %d of command %s, %d bytes %s", e.Recording.Index, e.Recording.Command, e.Recording.Bytes, e.Recording.Reason)
	case e.Note["session"] != "":
		what = fmt.Sprintf("session %s ended by %s", e.Note["session"], e.Note["by"])
	case e.Approval != nil:
		what = fmt.Sprintf("approval %s %s by %s", e.Approval.ID, e.Approval.Status, e.Approval.By)
	}
	_, err := fmt.Fprintf(w, "%s %-8s %-10s %-30s %q\n", e.Time.Format("15:04:05.000"), inline(string(e.Kind)), inline(string(e.Target)), inline(who), what)
	return err
}

func statusOf(s access.Status) string {
	if s == access.StatusUnknown {
		return "outcome unknown"
	}
	return string(s)
}
