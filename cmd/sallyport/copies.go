package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/functions/copies"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/localstack/embedded"
)

func auditCopiesCommand() *cobra.Command {
	var where, to, output string
	var rebuild bool
	c := &cobra.Command{
		Use:   "copies --dir DIR",
		Short: "Write the log a second time as Parquet, for SQL engines",
		Long: `Write what the checkpoint covers and the copies have not yet: Parquet files by day, with columns of their own for who, what and what came of it.
The running system does the same by itself; this is for a copy of the evidence, and for making everything anew. Nothing but the log is read.
Copies prove nothing: each row says in which line of which segment its entry is, and audit verify proves the segment.`,
		Example: `  sallyport audit copies --dir ./data
  sallyport audit copies --dir ./data --to ./sql --rebuild -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if where == "" {
				return api.Because(api.ErrBadRequest, "name the directory that `sallyport dev --dir` or `sallyport stack evidence` was given", "--dir is missing")
			}
			if output != "text" && output != "json" {
				return api.Because(api.ErrBadRequest, "text or json", "-o %q", output)
			}
			said := func(st copies.State) {
				if output == "text" {
					_, _ = fmt.Fprintf(c.ErrOrStderr(), "%d of %d entries\n", st.Copied, st.Log)
				}
			}
			st, to, err := copyDir(c.Context(), where, to, rebuild, said)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(c.OutOrStdout(), struct {
					copies.State
					To string `json:"to"`
				}{st, to})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%d entries in %s, %d files new\n", st.Copied, to, st.Files)
			return err
		},
	}
	c.Flags().StringVar(&where, "dir", "", "data directory of the embedded system, or a copy of a stack's evidence")
	c.Flags().StringVar(&to, "to", "", "where the copies go (default DIR/"+embedded.CopiesDir+")")
	c.Flags().BoolVar(&rebuild, "rebuild", false, "remove the copies that are there first")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// noLimit is longer than any log takes: a person waits, and may interrupt.
const noLimit = 1000 * time.Hour

func copyDir(ctx context.Context, where, to string, rebuild bool, said func(copies.State)) (copies.State, string, error) {
	evidence := filepath.Join(where, "evidence")
	if info, err := os.Stat(evidence); err != nil || !info.IsDir() {
		return copies.State{}, "", api.Because(api.ErrNotFound, "want the directory that `sallyport dev --dir` was given", "no evidence in %s", where)
	}
	if to == "" {
		to = filepath.Join(where, embedded.CopiesDir)
		unlock, err := embedded.Lock(where) // the system writes there too
		if err != nil {
			return copies.State{}, "", api.Because(api.ErrConflict, "it writes the copies by itself, once a minute; or name another place with --to", "%v", err)
		}
		defer unlock()
	}
	if err := onlyCopies(to, rebuild); err != nil {
		return copies.State{}, "", err
	}
	log, err := dir.Open(evidence)
	if err != nil {
		return copies.State{}, "", err
	}
	defer func() { _ = log.Close() }() // read only
	files, err := dir.Open(to)
	if err != nil {
		return copies.State{}, "", err
	}
	copier, err := copies.New(copies.Config{Log: log, Files: files, Limit: noLimit, Progress: said})
	if err != nil {
		return copies.State{}, "", errors.Join(err, files.Close())
	}
	st, err := copier.Run(ctx)
	return st, to, errors.Join(err, files.Close())
}

// onlyCopies refuses a place in which anything else lies, and empties it where that is asked.
func onlyCopies(to string, remove bool) error {
	var ours []string
	err := fs.WalkDir(os.DirFS(to), ".", func(p string, e fs.DirEntry, err error) error {
		if p == "." && errors.Is(err, fs.ErrNotExist) {
			return fs.SkipAll
		}
		if err != nil || e.IsDir() {
			return err
		}
		if !copies.OwnName(p) {
			return api.Because(api.ErrBadRequest, "name an empty directory, or one that copies were written to before", "%s is no place for copies: %s is none", to, p)
		}
		ours = append(ours, p)
		return nil
	})
	if err != nil || !remove {
		return err
	}
	for _, p := range ours { // the cursor is the first: without it, what remains is gone over again
		if err := os.Remove(filepath.Join(to, p)); err != nil {
			return err
		}
	}
	return nil
}
