package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/classify"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
)

// classification is what `classify` is asked for.
type classification struct {
	rows    int
	schemas []string
	dir     string // of a policy; empty: none
	write   bool
	output  string
}

// classesFile is the part of a policy that names classes of data.
const classesFile = "classes.yaml"

func (a *app) classifyCommand() *cobra.Command {
	var x classification
	c := &cobra.Command{
		Use:   "classify TARGET",
		Short: "Propose classes for a database's columns, from names and a sample of values",
		Long: `Read the catalogue and some rows of each table of a PostgreSQL target, and propose which columns hold mail addresses, cards, names, secrets
and the like: a classes.yaml on standard output, with what speaks for each column, for a person to review. Nothing is changed on the
target, and no value is kept or printed.

It is an ordinary client: each of its questions is decided and recorded, and what is masked for you is masked for it. Run it as
somebody who may read the tables. A table that may not be read is judged by its names.

With --policy, columns that the policy's classes name are left alone and the file that comes out is the policy's own with the proposals
added; --write puts it in its place, if the policy still loads with it.`,
		Example: `  sallyport classify app > classes.yaml
  sallyport classify app --policy ./policy --write && git diff ./policy
  sallyport classify app --schema public --rows 1000 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case x.rows < 1 || x.rows > classify.MaxRows:
				return usage(cmd, "--rows %d: want 1 to %d", x.rows, classify.MaxRows)
			case x.write && x.dir == "":
				return usage(cmd, "--write wants --policy")
			case x.write && x.output == "json":
				return usage(cmd, "--write changes a file: -o json is without it")
			}
			if err := checkOutput(cmd, x.output); err != nil {
				return err
			}
			return a.classify(cmd, access.TargetName(args[0]), x)
		},
	}
	c.Flags().IntVar(&x.rows, "rows", 200, "rows of each table to look into")
	c.Flags().StringSliceVar(&x.schemas, "schema", nil, "only these schemas (default: all but the system's)")
	c.Flags().StringVar(&x.dir, "policy", "", "a policy directory whose classes.yaml is added to")
	c.Flags().BoolVar(&x.write, "write", false, "write the policy's classes.yaml instead of printing it")
	addOutput(c, &x.output)
	return c
}

func (a *app) classify(cmd *cobra.Command, target access.TargetName, x classification) error {
	ctx := cmd.Context()
	config := classify.Config{Rows: x.rows, Schemas: x.schemas, Look: a.progress()}
	var bundle *policy.Bundle
	var existing []byte
	if x.dir != "" {
		var err error
		if bundle, err = loadPolicy(cmd, x.dir, x.output); err != nil {
			return err
		}
		config.Known = bundle.Classes
		if existing, err = os.ReadFile(filepath.Join(x.dir, classesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	local, done, err := a.postgres(ctx, target)
	if err != nil {
		return err
	}
	config.DSN = protocols["postgres"].DSN(local)
	config.Notice = func(message string) { _, _ = fmt.Fprintln(a.stderr, shown(message)) }
	r, err := classify.Scan(ctx, config)
	if err := errors.Join(err, done()); err != nil {
		return targetError(err)
	}
	if x.output == "json" {
		return printJSON(a.stdout, r)
	}
	file, err := r.Merge(existing)
	if err != nil {
		return err
	}
	if bundle != nil {
		if _, err := bundle.With(classesFile, file); err != nil {
			return api.Because(api.ErrBadRequest, "name the columns by hand", "with what is proposed the policy does not load, nothing was written: %v", err)
		}
	}
	if x.write {
		err = writeClasses(x.dir, file, existing)
	} else {
		_, err = a.stdout.Write(file)
	}
	return errors.Join(err, a.tellScan(r, x))
}

// targetError puts what PostgreSQL or the gate refused in the words of the other commands.
func targetError(err error) error {
	if e, ok := errors.AsType[*classify.RefusedError](err); ok {
		return api.Because(api.ErrDenied, e.Hint, "%s", e.Message)
	}
	return err
}

// progress says on a terminal where a scan is.
func (a *app) progress() func(done, of int, table string) {
	if !isatty.IsTerminal(a.stderr.Fd()) {
		return nil
	}
	var last time.Time
	return func(done, of int, table string) {
		if now := time.Now(); done == of || now.Sub(last) > 100*time.Millisecond {
			last = now
			_, _ = fmt.Fprintf(a.stderr, "\r\x1b[K%d of %d tables: %s", done, of, shown(table))
		}
	}
}

func (a *app) tellScan(r *classify.Report, x classification) error {
	var b bytes.Buffer
	if isatty.IsTerminal(a.stderr.Fd()) {
		b.WriteString("\r\x1b[K")
	}
	fmt.Fprintf(&b, "%d tables, %d columns (%d have a class already), %d rows looked into\n", r.Tables, r.Columns, r.Known, r.Rows)
	fmt.Fprintf(&b, "%d columns proposed for a class, %d hold such values now and then, %d are only called so\n", len(r.Proposals), len(r.Seldom), len(r.Doubtful))
	for _, f := range r.Refused {
		fmt.Fprintf(&b, "%s was judged by its names: %s\n", shown(f.Table), shown(f.Why))
	}
	switch {
	case x.write:
		fmt.Fprintf(&b, "review %s, then: sallyport policy test %s\n", filepath.Join(x.dir, classesFile), x.dir)
	case len(r.Proposals) > 0:
		b.WriteString("nothing is masked by this yet: review it, put it into the policy directory as " + classesFile + ", then: sallyport policy test DIR\n")
	}
	_, err := io.Copy(a.stderr, &b)
	return err
}

// writeClasses puts the file in its place in one step, if nobody changed it meanwhile.
func writeClasses(dir string, file, existing []byte) error {
	path := filepath.Join(dir, classesFile)
	tmp, err := os.CreateTemp(dir, "."+classesFile+".*") // hidden files are not part of a policy
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already once it is in place
	_, err = tmp.Write(file)
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if now, err := os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) || !bytes.Equal(now, existing) {
		return api.Because(api.ErrConflict, "run it again", "%s changed meanwhile", path)
	}
	return os.Rename(tmp.Name(), path)
}
