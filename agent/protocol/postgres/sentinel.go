package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
)

// A transaction in REPEATABLE READ or SERIALIZABLE reads the catalogue as it was when the transaction began, while what runs in it goes by what the
// definitions are now: no question in it can tell the difference. So it is asked over a connection of the room's own, one for each login that
// has such transactions, made when it is needed and closed with the last session that did.

type sentinelOf struct {
	target               access.TargetName
	host, user, database string // host as the session's key has it: another of the cluster may not know yet what was changed
}

func (f *front) sentinelKey() sentinelOf {
	return sentinelOf{target: f.s.Target, host: f.key.host, user: f.s.Login.User, database: f.st.database}
}

type sentinels struct {
	mu sync.Mutex
	by map[sentinelOf]*sentinel
}

type sentinel struct {
	users int // under the lock of sentinels
	turn  chan struct{}
	conn  *pgconn.PgConn // of who has the turn
}

func newSentinels() *sentinels { return &sentinels{by: make(map[sentinelOf]*sentinel)} }

func (s *sentinels) join(k sentinelOf) *sentinel {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.by[k]
	if w == nil {
		w = &sentinel{turn: make(chan struct{}, 1)}
		s.by[k] = w
	}
	w.users++
	return w
}

func (s *sentinels) leave(ctx context.Context, k sentinelOf, w *sentinel) {
	s.mu.Lock()
	w.users--
	last := w.users == 0
	if last {
		delete(s.by, k)
	}
	s.mu.Unlock()
	if last && w.conn != nil { // nobody else can have the turn
		_ = w.conn.Close(ctx)
	}
}

// lookOutside is look over the room's own connection. What names mean is not asked there, where the search path is another: the guard that
// goes with the command asks that, and the server answers from what is so now.
func (f *front) lookOutside(ctx context.Context, r *reliance) (why string, err error) {
	if f.sentinel == nil {
		f.sentinel = f.sentinels.join(f.sentinelKey())
	}
	ctx, stop := context.WithTimeout(ctx, orDefault(f.set.Login, loginWait))
	defer stop()
	w := f.sentinel
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if w.conn == nil || w.conn.IsClosed() {
		if w.conn, err = f.station(ctx); err != nil {
			return "", &access.Denied{Code: access.CodeNoDecision, Rule: "postgres.definitions-unknown", Retryable: true,
				Hint: "the gate needs a second connection to see what other sessions change during a transaction of this isolation, and got none: use READ COMMITTED"}
		}
	}
	names := *r
	names.names, names.means = nil, nil
	params := names.parameters("", "", r.writes)
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	res := w.conn.ExecPrepared(ctx, lookName, values, nil, nil).Read()
	rows := make([][]string, 0, len(res.Rows))
	for _, row := range res.Rows {
		texts := make([]string, len(row))
		for i, v := range row {
			texts[i] = string(v)
		}
		rows = append(rows, texts)
	}
	return changed(rows, res.Err)
}

// station opens the room's own connection, to the host that the session is on.
func (f *front) station(ctx context.Context) (*pgconn.PgConn, error) {
	l := &link{s: f.s, set: f.set, at: f.key.host} // its own: the session's cancel key stays what it is
	cfg, err := l.config(&startup{database: f.st.database, settings: map[string]string{"default_transaction_isolation": committed}})
	if err != nil {
		return nil, fmt.Errorf("second connection: %w", err)
	}
	c, err := connectTo(ctx, cfg)
	if err != nil {
		f.s.Log.Error("second connection to the target failed", "session", f.s.ID, "target", f.s.Target, "error", err)
		return nil, fmt.Errorf("second connection: %w", err)
	}
	if _, err := c.Prepare(ctx, lookName, sqlLook, lookTypes); err != nil {
		_ = c.Close(ctx)
		return nil, fmt.Errorf("second connection: %w", err)
	}
	return c, nil
}

// dismiss gives the room's own connection up.
func (f *front) dismiss() {
	if f.sentinel == nil {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), farewellWait)
	defer stop()
	f.sentinels.leave(ctx, f.sentinelKey(), f.sentinel)
	f.sentinel = nil
}
