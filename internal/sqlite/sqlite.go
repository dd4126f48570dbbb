// Package sqlite keeps items in one SQLite file: the embedded twin of DynamoDB, with group commit and one fsync per group.
// It refuses a write whose condition does not hold, and answers nothing before it is on disk.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	_ "modernc.org/sqlite" // the "sqlite" driver, pure Go

	"github.com/sallyport/sallyport/internal/store"
)

// tables are the only ones: a name from outside never reaches SQL.
var tables = []string{store.Grants, store.Approvals, store.Registry, store.Audit}

// schema: rev is the row's place in the feed; replacing a row gives it a new one, and AUTOINCREMENT never gives one twice.
const schema = `CREATE TABLE IF NOT EXISTS %[1]s (
	rev INTEGER PRIMARY KEY AUTOINCREMENT,
	pk TEXT NOT NULL, sk TEXT NOT NULL,
	version INTEGER NOT NULL, expires INTEGER NOT NULL, body BLOB NOT NULL,
	UNIQUE (pk, sk))`

// DB implements store.Items and store.Feed.
type DB struct {
	read   *sql.DB
	get    map[string]*sql.Stmt // by table; prepared once on each connection of read
	write  *sql.DB
	writes chan *pending
	quit   chan struct{}
	done   chan struct{}
}

// Open opens or makes the file. Only one process may have it open for writing; the caller sees to that.
func Open(path string) (*DB, error) {
	db, err := open(path, false)
	if err != nil {
		return nil, err
	}
	db.writes, db.quit, db.done = make(chan *pending, maxGroup), make(chan struct{}), make(chan struct{})
	w, err := newWriter(db.write)
	if err != nil {
		return nil, errors.Join(err, db.write.Close(), db.read.Close())
	}
	go func() { defer close(db.done); w.run(db.writes, db.quit) }()
	return db, nil
}

// OpenReadOnly opens an existing file for readers beside, or without, the process that writes it. Its writes are refused.
func OpenReadOnly(path string) (*DB, error) { return open(path, true) }

func open(path string, readOnly bool) (*DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	q := url.Values{}
	q.Add("_pragma", "busy_timeout(5000)")
	if readOnly {
		q.Add("mode", "ro")
	} else {
		// FULL fsyncs the log at every commit: what was answered survives a power cut.
		q.Add("_pragma", "journal_mode(WAL)")
		q.Add("_pragma", "synchronous(FULL)")
		q.Add("_pragma", "wal_autocheckpoint(4000)")
	}
	dsn := "file:" + (&url.URL{Path: abs}).EscapedPath() + "?" + q.Encode()
	db := &DB{}
	if !readOnly {
		if db.write, err = sql.Open("sqlite", dsn); err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		db.write.SetMaxOpenConns(1)
		for _, t := range tables {
			if _, err := db.write.Exec(fmt.Sprintf(schema, t)); err != nil {
				return nil, errors.Join(fmt.Errorf("open %s: make table %s: %w", path, t, err), db.write.Close())
			}
		}
	}
	if db.read, err = sql.Open("sqlite", dsn); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.read.SetMaxOpenConns(max(4, runtime.NumCPU()))
	db.read.SetMaxIdleConns(max(4, runtime.NumCPU()))
	db.get = make(map[string]*sql.Stmt, len(tables))
	for _, t := range tables {
		if db.get[t], err = db.read.Prepare("SELECT version, expires, body FROM " + t + " WHERE pk=? AND sk=?"); err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.read.Close())
		}
	}
	return db, nil
}

// Close waits for writes under way and closes the file.
func (db *DB) Close() error {
	if db.write == nil {
		return db.read.Close()
	}
	close(db.quit)
	<-db.done
	return errors.Join(db.write.Close(), db.read.Close())
}

// Get returns the item or store.ErrNotFound. Every read is strong.
func (db *DB) Get(ctx context.Context, table string, k store.Key, _ bool) (store.Item, error) {
	if err := checkTable(table); err != nil {
		return store.Item{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Item{}, fmt.Errorf("get %s %s %s: %w", table, k.PK, k.SK, err)
	}
	it := store.Item{Key: k}
	var expires int64
	// Two goroutines would watch a context that can end, for each read of one row by its key, which takes microseconds.
	err := db.get[table].QueryRowContext(context.WithoutCancel(ctx), k.PK, k.SK).Scan(&it.Version, &expires, &it.Body)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Item{}, fmt.Errorf("get %s %s %s: %w", table, k.PK, k.SK, store.ErrNotFound)
	}
	if err != nil {
		return store.Item{}, fmt.Errorf("get %s %s %s: %w", table, k.PK, k.SK, err)
	}
	it.Expires = fromUnix(expires)
	return it, nil
}

// Query lists a partition's items whose SK starts with prefix. The cursor is the last SK of the page before.
func (db *DB) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	if err := checkTable(table); err != nil {
		return store.Page{}, err
	}
	if limit < 1 || limit > 1000 {
		return store.Page{}, fmt.Errorf("query %s: limit %d is not 1 to 1000", table, limit)
	}
	rows, err := db.read.QueryContext(ctx, "SELECT sk, version, expires, body FROM "+table+
		" WHERE pk=? AND sk>=? AND sk<? AND sk>? ORDER BY sk LIMIT ?", pk, prefix, prefix+"\U0010FFFF", cursor, limit+1)
	if err != nil {
		return store.Page{}, fmt.Errorf("query %s %s: %w", table, pk, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err below tells
	var p store.Page
	for rows.Next() {
		it := store.Item{Key: store.Key{PK: pk}}
		var expires int64
		if err := rows.Scan(&it.SK, &it.Version, &expires, &it.Body); err != nil {
			return store.Page{}, fmt.Errorf("query %s %s: %w", table, pk, err)
		}
		it.Expires = fromUnix(expires)
		p.Items = append(p.Items, it)
	}
	if err := rows.Err(); err != nil {
		return store.Page{}, fmt.Errorf("query %s %s: %w", table, pk, err)
	}
	if len(p.Items) > limit {
		p.Items = p.Items[:limit]
		p.Cursor = p.Items[limit-1].SK
	}
	return p, nil
}

// Since lists a table's rows written after a revision, in order. The cursor is the revision in decimal.
func (db *DB) Since(ctx context.Context, table, after string, limit int) ([]store.Item, string, error) {
	if err := checkTable(table); err != nil {
		return nil, after, err
	}
	rev := int64(0)
	if after != "" {
		var err error
		if rev, err = strconv.ParseInt(after, 10, 64); err != nil || rev < 0 {
			return nil, after, fmt.Errorf("feed of %s: cursor %q is not of this store", table, after)
		}
	}
	rows, err := db.read.QueryContext(ctx, "SELECT rev, pk, sk, version, expires, body FROM "+table+
		" WHERE rev>? ORDER BY rev LIMIT ?", rev, limit)
	if err != nil {
		return nil, after, fmt.Errorf("feed of %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err below tells
	var items []store.Item
	for rows.Next() {
		var it store.Item
		var expires int64
		if err := rows.Scan(&rev, &it.PK, &it.SK, &it.Version, &expires, &it.Body); err != nil {
			return nil, after, fmt.Errorf("feed of %s: %w", table, err)
		}
		it.Expires = fromUnix(expires)
		items = append(items, it)
	}
	if err := rows.Err(); err != nil {
		return nil, after, fmt.Errorf("feed of %s: %w", table, err)
	}
	if len(items) == 0 {
		return nil, after, nil
	}
	return items, strconv.FormatInt(rev, 10), nil
}

func checkTable(t string) error {
	if !slices.Contains(tables, t) {
		return errors.New("no table " + strconv.Quote(t))
	}
	return nil
}

func fromUnix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

func toUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
