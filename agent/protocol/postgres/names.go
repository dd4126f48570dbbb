package postgres

import (
	"context"
	"reflect"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// textIn asks the target for the text behind a name in one of its views of the session: pg_prepared_statements, pg_cursors. While something
// of the segment is on its way, or may move names, there is no answer that would hold.
func (f *front) textIn(view string) func(name string) (string, bool) {
	return func(name string) (string, bool) {
		if f.seg.sent || f.seg.renamed || f.seg.status == statusError {
			return "", false
		}
		// The end of the session ends the question too: it closes the connection.
		ctx, stop := context.WithTimeout(context.Background(), loginWait)
		defer stop()
		rows, err := f.ask(ctx, "SELECT statement FROM pg_catalog."+view+" WHERE name = "+literal(name))
		if err != nil || len(rows) != 1 || len(rows[0]) != 1 {
			return "", false
		}
		return rows[0][0], true
	}
}

// current makes sure that what was decided is what will run, where the decision took its time: a command that was held waits for minutes, and
// somebody may have changed a definition meanwhile. One whose facts are not the same any more is refused, to be asked about anew.
func (f *front) current(ctx context.Context, cmds []access.Command) (*access.Denied, error) {
	if len(cmds) == 0 || time.Since(f.checked) <= f.fresh {
		return nil, nil
	}
	if f.seg.sent || f.seg.status != statusIdle {
		return nil, nil // a question now would end the segment, or take the place of a SET TRANSACTION
	}
	if err := f.refresh(ctx); err != nil || !f.stale {
		return nil, err
	}
	if err := f.reload(ctx); err != nil {
		return nil, err
	}
	unsure := f.seg.unsure
	defer func() { f.seg.unsure = unsure }()
	f.seg.unsure = false
	for i, c := range cmds {
		now, _ := f.command(c.Text, c.Params, c.Prepare)
		now.Facts.InTxn = c.Facts.InTxn
		if !reflect.DeepEqual(now.Touches, c.Touches) || !reflect.DeepEqual(now.Classes, c.Classes) || now.Masked != c.Masked || now.Complete != c.Complete ||
			!reflect.DeepEqual(now.Facts, c.Facts) || !reflect.DeepEqual(now.Refused, c.Refused) {
			return &access.Denied{Code: access.CodeNoDecision, Rule: "postgres.definitions-changed", Retryable: true, Index: i,
				Hint: "a definition that the command depends on was changed while it waited; send it again"}, nil
		}
	}
	return nil, nil
}
