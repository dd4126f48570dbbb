package story

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/columns"
	"github.com/sallyport/sallyport/localstack/embedded"
)

// copies holds what the system wrote for SQL to the log: each entry once, and nothing in it that is no entry's; then what a person makes of the
// log alone.
func (p *player) copies(ctx context.Context) error {
	segments, err := filepath.Glob(filepath.Join(p.data, "evidence", audit.SegmentPrefix, "*.jsonl"))
	if err != nil {
		return err
	}
	entries := 0
	for _, s := range segments {
		b, err := os.ReadFile(s)
		if err != nil {
			return err
		}
		entries += bytes.Count(b, []byte("\n"))
	}
	made := filepath.Join(p.dir, "copies-made-by-hand")
	out, code, err := p.cli(ctx, "", "audit", "copies", "--dir", p.data, "--to", made, "-o", "json")
	if err != nil || code != 0 {
		return fmt.Errorf("audit copies: exit %d, %w: %s", code, err, out)
	}
	for _, where := range []string{filepath.Join(p.data, embedded.CopiesDir), made} {
		rows, files, err := copiedRows(where)
		if err != nil {
			return err
		}
		if err := check(len(rows) == entries && entries > 0, "%s: %d rows of %d entries", where, len(rows), entries); err != nil {
			return err
		}
		for i, r := range rows {
			if err := errors.Join(check(r.Position == int64(i), "%s: row %d is of entry %d", where, i, r.Position),
				absent(fmt.Sprintf("%+v", r), p.secret, "4111111111111111", "ada@example.com")); err != nil {
				return err
			}
		}
		p.ok("each of %d entries is a row, in %d Parquet files; no protected value is in any", entries, files)
	}
	return nil
}

// copiedRows are all rows, in the order of the log.
func copiedRows(where string) (all []columns.Row, files int, err error) {
	names, err := filepath.Glob(filepath.Join(where, "entries", "day=*", "*.parquet"))
	if err != nil {
		return nil, 0, err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return nil, 0, err
		}
		rows, err := columns.Decode(b)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", n, err)
		}
		all = append(all, rows...)
	}
	slices.SortFunc(all, func(a, b columns.Row) int { return int(a.Position - b.Position) })
	return all, len(names), nil
}
