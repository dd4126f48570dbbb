package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

// maxGroup bounds how many writes share one commit; what waits beyond blocks its caller.
const maxGroup = 256

// sweepEvery is how often rows of the grants table that expired an hour ago are deleted. Nothing relies on it.
const sweepEvery = 10 * time.Minute

// pending is one caller's write: one or two items, applied together or not at all.
type pending struct {
	writes []store.Write
	reply  chan error // buffered: the writer never waits for a caller that left
}

// Put writes one item under its condition.
func (db *DB) Put(ctx context.Context, w store.Write) error { return db.submit(ctx, []store.Write{w}) }

// Transact writes both items or neither.
func (db *DB) Transact(ctx context.Context, a, b store.Write) error {
	if a.Table == b.Table && a.Item.Key == b.Item.Key {
		return fmt.Errorf("transact %s %s %s: the same item twice", a.Table, a.Item.PK, a.Item.SK)
	}
	return db.submit(ctx, []store.Write{a, b})
}

// submit hands the write to the writer and waits. A caller whose ctx ends may still see its write applied: as on any store,
// it must ask again under the same condition.
func (db *DB) submit(ctx context.Context, ws []store.Write) error {
	for _, w := range ws {
		if err := checkTable(w.Table); err != nil {
			return err
		}
		if len(w.Item.Body) > store.MaxItem {
			return fmt.Errorf("put %s %s %s: %d bytes: %w", w.Table, w.Item.PK, w.Item.SK, len(w.Item.Body), store.ErrTooLarge)
		}
		if w.Item.PK == "" || w.Item.SK == "" {
			return fmt.Errorf("put %s: empty key", w.Table)
		}
	}
	if db.writes == nil {
		return errors.New("put: opened read-only")
	}
	p := &pending{writes: ws, reply: make(chan error, 1)}
	select {
	case db.writes <- p:
	case <-db.quit:
		return errors.New("put: store is closed")
	case <-ctx.Done():
		return fmt.Errorf("put: %w", ctx.Err())
	}
	select {
	case err := <-p.reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("put: %w", ctx.Err())
	case <-db.done: // closed between the two: the writer drains what it took before it ends
		select {
		case err := <-p.reply:
			return err
		default:
			return errors.New("put: store is closed")
		}
	}
}

// writer owns the only writing connection.
type writer struct {
	conn    *sql.Conn
	begin   *sql.Stmt
	commit  *sql.Stmt
	back    *sql.Stmt
	read    map[string]*sql.Stmt
	insert  map[string]*sql.Stmt // puts nothing in the place of a row that is there
	replace map[string]*sql.Stmt
	sweep   *sql.Stmt
}

func newWriter(db *sql.DB) (*writer, error) {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("open writer: %w", err)
	}
	w := &writer{conn: conn, read: map[string]*sql.Stmt{}, insert: map[string]*sql.Stmt{}, replace: map[string]*sql.Stmt{}}
	prepare := func(q string) (s *sql.Stmt) {
		if err == nil {
			s, err = conn.PrepareContext(ctx, q)
		}
		return s
	}
	w.begin, w.commit, w.back = prepare("BEGIN IMMEDIATE"), prepare("COMMIT"), prepare("ROLLBACK")
	for _, t := range tables {
		w.read[t] = prepare("SELECT version, expires FROM " + t + " WHERE pk=? AND sk=?")
		w.insert[t] = prepare("INSERT INTO " + t + " (pk, sk, version, expires, body) VALUES (?,?,1,?,?) ON CONFLICT (pk, sk) DO NOTHING")
		w.replace[t] = prepare("INSERT OR REPLACE INTO " + t + " (pk, sk, version, expires, body) VALUES (?,?,?,?,?)")
	}
	w.sweep = prepare("DELETE FROM " + store.Grants + " WHERE expires>0 AND expires<?")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open writer: %w", err), conn.Close())
	}
	return w, nil
}

// run commits groups until quit: whatever waits when a commit begins travels in it.
func (w *writer) run(in <-chan *pending, quit <-chan struct{}) {
	defer func() { _ = w.conn.Close() }() // the DB's Close reports
	swept := time.Time{}
	group := make([]*pending, 0, maxGroup)
	for {
		group = group[:0]
		select {
		case p := <-in:
			group = append(group, p)
		case <-quit:
			select { // one last look: a caller may have handed in before it saw quit
			case p := <-in:
				group = append(group, p)
			default:
				return
			}
		}
	fill:
		for len(group) < maxGroup {
			select {
			case p := <-in:
				group = append(group, p)
			default:
				break fill
			}
		}
		w.apply(group)
		if time.Since(swept) > sweepEvery {
			swept = time.Now()
			_, _ = w.sweep.Exec(swept.Add(-time.Hour).Unix()) // housekeeping: the next round tries again
		}
	}
}

// apply runs a group in one transaction. A condition that fails concerns its own write alone; any other error fails them all.
func (w *writer) apply(group []*pending) {
	results := make([]error, len(group))
	err := w.commitGroup(group, results)
	for i, p := range group {
		if err != nil {
			p.reply <- err
			continue
		}
		p.reply <- results[i]
	}
}

func (w *writer) commitGroup(group []*pending, results []error) error {
	if _, err := w.begin.Exec(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	for i, p := range group {
		conflict, err := w.put(p.writes)
		if err != nil {
			_, _ = w.back.Exec() // the first error says why
			return err
		}
		results[i] = conflict
	}
	if _, err := w.commit.Exec(); err != nil {
		_, _ = w.back.Exec() // the first error says why
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// put checks every condition before it writes anything.
func (w *writer) put(ws []store.Write) (conflict, err error) {
	if len(ws) == 1 && ws[0].Cond.Version == 0 {
		return w.putNew(&ws[0])
	}
	for _, x := range ws {
		var version, expires int64
		err := w.read[x.Table].QueryRow(x.Item.PK, x.Item.SK).Scan(&version, &expires)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("put %s %s %s: %w", x.Table, x.Item.PK, x.Item.SK, err)
		}
		dead := !x.Cond.LiveAt.IsZero() && expires != 0 && !fromUnix(expires).After(x.Cond.LiveAt)
		if version != x.Cond.Version || dead {
			return fmt.Errorf("put %s %s %s: version %d: %w", x.Table, x.Item.PK, x.Item.SK, version, store.ErrConflict), nil
		}
	}
	for _, x := range ws {
		if _, err := w.replace[x.Table].Exec(x.Item.PK, x.Item.SK, x.Cond.Version+1, toUnix(x.Item.Expires), body(x.Item.Body)); err != nil {
			return nil, fmt.Errorf("put %s %s %s: %w", x.Table, x.Item.PK, x.Item.SK, err)
		}
	}
	return nil, nil
}

// putNew is put for what evidence is made of: one item that must not be there yet. One statement checks and writes.
func (w *writer) putNew(x *store.Write) (conflict, err error) {
	r, err := w.insert[x.Table].Exec(x.Item.PK, x.Item.SK, toUnix(x.Item.Expires), body(x.Item.Body))
	if err != nil {
		return nil, fmt.Errorf("put %s %s %s: %w", x.Table, x.Item.PK, x.Item.SK, err)
	}
	switch n, err := r.RowsAffected(); {
	case err != nil:
		return nil, fmt.Errorf("put %s %s %s: %w", x.Table, x.Item.PK, x.Item.SK, err)
	case n != 1:
		return fmt.Errorf("put %s %s %s: it is there: %w", x.Table, x.Item.PK, x.Item.SK, store.ErrConflict), nil
	}
	return nil, nil
}

// body keeps an empty body from becoming NULL.
func body(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
