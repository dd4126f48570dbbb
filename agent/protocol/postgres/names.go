package postgres

import "context"

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
