package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// What a command means is decided from a snapshot of the catalogue, and somebody else may change a definition before it runs. So a question of
// the room's goes with the command, in its transaction, after what it names is locked (by Bind, or by parsing the text of a Query first): where a
// definition that the facts rest on is not what it was, the question fails, and the target itself skips the command. Relations cannot change
// after that until the transaction ends. Before a Query outside a transaction that is so up to version 15 alone: see pipelines. Functions are not locked by anything: a body may still change between the question and the call.
//
// Where no transaction with a number of its own has ended since the snapshot was taken nothing can have changed, and the question ends there.

// guardName and lookName are the room's prepared statements: guard fails where look only tells.
const (
	guardName = own + " guard"
	lookName  = own + " look"
)

// Of the parameters, $1 is the server's snapshot that the room's is good for, $2 the isolation that the room takes for granted (” for none),
// $3 the names of relations and $4 what they meant, $5 the relations, $6 a number above which every process is where rows change, and none otherwise, $7 the names of functions, $8 to $10 the stamps.
const (
	guardCase = `CASE WHEN $2 <> '' AND pg_catalog.current_setting('transaction_isolation') <> $2 AND pg_catalog.current_setting('transaction_isolation') <> 'read uncommitted' THEN '` + own + `-isolation'
WHEN %s <> $4 THEN '` + own + `-name'
WHEN pg_catalog.pg_current_snapshot()::text = $1 THEN '0'
WHEN (SELECT coalesce(pg_catalog.sum(s.read + CASE WHEN pg_catalog.pg_backend_pid() > $6 THEN s.write ELSE 0 END), 0) FROM (SELECT ($5)[i] AS o FROM pg_catalog.generate_subscripts($5, 1) i LIMIT 128) u,
LATERAL (SELECT ` + stampRead + ` AS read, ` + stampWrite + ` AS write FROM pg_catalog.pg_class c WHERE c.oid = u.o LIMIT 1) s) <> $8 THEN '` + own + `-relation'
WHEN (SELECT coalesce(pg_catalog.sum(s.stamp), 0) FROM (SELECT ($7)[i] AS n FROM pg_catalog.generate_subscripts($7, 1) i LIMIT 128) u,
LATERAL (SELECT ` + stampRow + ` AS stamp FROM pg_catalog.pg_proc x WHERE x.proname = u.n) s) <> $9 THEN '` + own + `-function'
WHEN ` + stampOwn + ` <> $10 THEN '` + own + `-operator'
ELSE '0' END`
	lookNames = `(SELECT coalesce(pg_catalog.array_agg(pg_catalog.to_regclass(n)::pg_catalog.oid), '{}') FROM pg_catalog.unnest($3) n)`
)

// The server makes a plan for each of the first five runs of a statement, and one for all further ones only where it takes that for cheaper than
// planning: what is in FROM here costs nothing, and makes planning look dear. For the same reason the elements of $5 and $7 (at most maxRelied) are counted in a way that it cannot guess from them, and $6 is compared with what only a run knows.
var (
	planOnce = " FROM (SELECT) d" + dummies(60)
	sqlGuard = exact("SELECT (" + fmt.Sprintf(guardCase, "$3::pg_catalog.oid[]") + ")::int" + planOnce)
	sqlLook  = exact("SELECT " + fmt.Sprintf(guardCase, lookNames))

	guardTypes = []uint32{25, 25, 2210, 1028, 1028, 23, 1003, 20, 20, 20}
	lookTypes  = []uint32{25, 25, 1009, 1028, 1028, 23, 1003, 20, 20, 20}
)

// exact names the server's own operators and types: the search path is the client's, and may lead to others.
func exact(sql string) string {
	for _, op := range []string{"=", "<>", ">", ">=", ">>", "+", "*"} {
		for _, before := range []string{" ", "\n"} {
			sql = strings.ReplaceAll(sql, before+op+" ", before+"OPERATOR(pg_catalog."+op+") ")
		}
	}
	return strings.ReplaceAll(sql, "::text", "::pg_catalog.text")
}

func dummies(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(", (SELECT) d" + strconv.Itoa(i))
	}
	return b.String()
}

// committed is the isolation in which each statement sees what was committed before it.
const committed = "read committed"

// parameters are those of guard and look, as text.
func (r *reliance) parameters(snapshot, isolation string, writes bool) [10]string {
	above := "2147483647"
	if writes {
		above = "0"
	}
	return [10]string{snapshot, isolation, arrayOf(r.names), numbersOf(r.means), numbersOf(r.relations), above,
		arrayOf(r.functions), strconv.FormatInt(r.relation, 10), strconv.FormatInt(r.function, 10), strconv.FormatInt(r.own, 10)}
}

func arrayOf(s []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`)
	}
	return b.String() + "}"
}

func numbersOf(s []uint32) string {
	b := []byte{'{'}
	for i, v := range s {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	return string(append(b, '}'))
}

func appendTypedParse(dst []byte, name, text string, types []uint32) []byte {
	dst, at := frame(dst, 'P')
	dst = appendText(appendText(dst, name), text)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(types)))
	for _, t := range types {
		dst = binary.BigEndian.AppendUint32(dst, t)
	}
	return seal(dst, at)
}

func appendTextBind(dst []byte, portal, statement string, params []string) []byte {
	dst, at := frame(dst, 'B')
	dst = appendText(appendText(dst, portal), statement)
	dst = binary.BigEndian.AppendUint16(append(dst, 0, 0), uint16(len(params)))
	for _, p := range params {
		dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(p))), p...)
	}
	return seal(append(dst, 0, 0), at)
}

// guarding is what the front must know of a guard that failed.
type guarding struct {
	query   []byte  // the Query message that it went before; nil in the extended protocol
	items   []*item // of the extended protocol, where they may be sent once more
	retry   bool    // nothing of the segment has had an effect: it may be decided anew
	copying bool    // the client may be sending data already
	why     string  // what has changed; empty: the client has been told of something else that failed
}

// guard appends the question to what goes to the target. portal names it; the nameless one need not be closed.
func (f *front) guard(msg []byte, r *reliance, portal string, g *guarding, run *running) ([]byte, error) {
	if !f.guards {
		f.guards, f.giving = true, &expect{kind: kindParse, hidden: true}
		for _, e := range []*expect{{kind: kindClose, hidden: true}, f.giving} {
			if err := f.q.push(e); err != nil {
				return nil, err
			}
		}
		msg = appendTypedParse(appendClose(msg, 'S', guardName), guardName, sqlGuard, guardTypes)
	}
	isolation := committed
	if f.frozen || f.isolationUnknown {
		isolation = ""
	}
	params := r.parameters(f.since, isolation, r.writes)
	msg = appendExecute(appendTextBind(msg, portal, guardName, params[:]), portal)
	if portal != "" {
		msg = appendClose(msg, 'P', portal)
	}
	return msg, f.q.push(&expect{kind: kindGuard, hidden: true, simple: portal == "", guarding: g, run: run})
}

// gave sees, once all is answered, whether the target took the question: it skips it where something before it failed.
func (f *front) gave() {
	if f.giving != nil {
		f.guards, f.giving = f.guards && f.giving.ok, nil
	}
}

// ahead is what goes before a Query: locks, then the question.
func (f *front) ahead(r *reliance, g *guarding, run *running) ([]byte, error) {
	msg, err := f.locks(nil, r, g, run)
	if err != nil {
		return nil, err
	}
	return f.guard(msg, r, "", g, run)
}

func (f *front) locks(msg []byte, r *reliance, g *guarding, run *running) ([]byte, error) {
	for _, text := range r.locks {
		msg = appendParse(msg, "", text)
		if err := f.q.push(&expect{kind: kindLock, hidden: true, guarding: g, run: run}); err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// upToDate sees to what the guard takes for granted, before the first command of a segment that rests on something. again says that the
// snapshot is another one now.
func (f *front) upToDate(ctx context.Context, p plan) (again bool, err error) {
	if p.relies == nil || f.seg.sent || len(f.seg.items) > 0 || f.seg.status == statusError {
		return false, nil
	}
	if f.isolationUnknown {
		rows, err := f.ask(ctx, "SELECT pg_catalog.current_setting('transaction_isolation')")
		if err == nil && (len(rows) != 1 || len(rows[0]) != 1) {
			err = errMalformed
		}
		if err != nil {
			return false, fmt.Errorf("read isolation: %w", err)
		}
		f.isolated(rows[0][0])
	}
	// A transaction that sees all through its first statement's eyes has nothing newer to tell.
	if f.seg.status != statusBlock || f.frozen || time.Since(f.checked) <= f.fresh {
		return false, nil
	}
	if err := f.refresh(ctx); err != nil || !f.stale {
		return false, err
	}
	f.staleIn = true
	return true, f.reload(ctx)
}

func (f *front) isolated(level string) {
	f.frozen, f.isolationUnknown = level != committed && level != "read uncommitted", false
}

// isolates notes that a text may say how transactions are isolated: it is asked before the next command that rests on something.
func (f *front) isolates(text string) {
	if len(text) > 4<<10 {
		return // no statement that says so is that long, and a guard that finds another isolation than it expects fails
	}
	lower := strings.ToLower(text)
	if strings.Contains(lower, "isolation") || strings.Contains(lower, "discard") || strings.Contains(lower, "reset") {
		f.isolationUnknown, f.isolationMoved = true, true
	}
}

// definitionsChanged is the refusal of a command whose meaning is not certain to be what was decided.
func definitionsChanged(why string, index int) *access.Denied {
	what := map[string]string{
		"name":      "another table or view has come to be what a name means",
		"relation":  "the definition of a table or view that it uses was changed",
		"function":  "a function that it calls, or one of that name, was made or changed",
		"operator":  "an operator, a cast or a domain was made or changed",
		"isolation": "the transaction is isolated otherwise than the gate could see",
	}[why]
	if what == "" {
		what = "a definition that it depends on was changed"
	}
	return &access.Denied{Code: access.CodeNoDecision, Rule: "postgres.definitions-changed", Retryable: true, Index: index,
		Hint: what + " by another session since it was decided; nothing of it ran: send it again, in a new transaction"}
}

// look asks, apart from any command, whether what r rests on is what it was.
func (f *front) look(ctx context.Context, r *reliance) (why string, err error) {
	if f.frozen && f.seg.status == statusBlock {
		return f.lookOutside(ctx, r)
	}
	e := &expect{kind: kindInternal, rows: &internal{}}
	if err := f.q.push(e); err != nil {
		return "", err
	}
	params := r.parameters(f.since, "", r.writes)
	msg := appendTypedParse(nil, own, sqlLook, lookTypes)
	msg = appendTextBind(msg, own, own, params[:])
	msg = appendBare(appendClose(appendClose(appendExecute(msg, own), 'P', own), 'S', own), 'S')
	if _, err := f.w.Write(msg); err != nil {
		return "", f.lost(err)
	}
	if err := f.flush(); err != nil {
		return "", err
	}
	if _, err := f.q.settled(ctx, f.in, goneGrace); err != nil {
		return "", err
	}
	if e.rows.err != nil {
		return "definition", nil //nolint:nilerr // no answer is no certainty: the command is refused
	}
	return changed(e.rows.rows, nil)
}

// changed reads what look told.
func changed(rows [][]string, err error) (why string, _ error) {
	switch {
	case err != nil:
		return "", fmt.Errorf("look at definitions: %w", err)
	case len(rows) != 1 || len(rows[0]) != 1:
		return "", fmt.Errorf("look at definitions: %w", errMalformed)
	case rows[0][0] == "0":
		return "", nil
	}
	why, _ = strings.CutPrefix(rows[0][0], own+"-")
	return orElse(why, "definition"), nil
}

// firm looks at what a Query rests on before it goes, where the question cannot go with it: where the server takes nothing before the
// command, and where the transaction would only see what was so when it began. g is what becomes of an error of the locks.
func (f *front) firm(ctx context.Context, r *reliance, g *guarding, run *running) (why string, err error) {
	if f.frozen && !r.apart {
		f.seg.sent = true
		msg, err := f.locks(nil, r, g, run)
		if err != nil {
			return "", err
		}
		if _, err := f.w.Write(appendBare(msg, 'H')); err != nil {
			return "", f.lost(err)
		}
		if err := f.flush(); err != nil {
			return "", err
		}
		if _, err := f.q.settled(ctx, f.in, goneGrace); err != nil {
			return "", err
		}
		return f.lookOutside(ctx, r)
	}
	if r.apart {
		return f.look(ctx, r)
	}
	return "", nil
}

// mend does what is left to do where a guard, or a lock before it, has failed and the target has skipped the command.
func (f *front) mend(ctx context.Context) error {
	g := f.q.broken()
	if g == nil {
		return nil
	}
	f.gave()
	f.stale = f.stale || g.why != ""
	if g.why == "isolation" {
		f.isolationUnknown, f.isolationMoved = true, true
	}
	if g.query == nil {
		return f.replay(ctx, g.items)
	}
	if err := f.q.push(&expect{kind: kindSync, hidden: g.why != ""}); err != nil {
		return err
	}
	if _, err := f.w.Write(appendBare(nil, 'S')); err != nil {
		return f.lost(err)
	}
	if err := f.flush(); err != nil {
		return err
	}
	status, err := f.q.settled(ctx, f.in, goneGrace)
	if err != nil || g.why == "" {
		return err
	}
	f.seg.open = false
	if g.retry && status == statusIdle {
		f.again = true
		defer func() { f.again = false }()
		return f.query(ctx, g.query)
	}
	if g.copying {
		f.copying = copyRefused
	}
	return f.q.answer(appendReady(refusal(definitionsChanged(g.why, 0)).append(nil), status), f.out)
}

// replay sends a segment of the extended protocol once more, decided anew. What was answered before the guard failed is not answered twice.
func (f *front) replay(ctx context.Context, items []*item) error {
	f.settle()
	f.again = true
	defer func() { f.again = false }()
	for _, it := range items {
		answered := it.owed != nil && it.owed.ok
		if answered && it.tag == 'P' && it.made.name != "" {
			continue // it outlives the transaction that failed
		}
		f.hide = answered
		err := f.extended(ctx, it.tag, it.orig)
		f.hide = false
		if err != nil {
			return err
		}
	}
	return f.sync(ctx)
}

// settled waits until nothing is owed, and mends what broke.
func (f *front) settled(ctx context.Context) (byte, error) {
	for {
		status, err := f.q.settled(ctx, f.in, goneGrace)
		if !errors.Is(err, errBroken) {
			return status, err
		}
		if err := f.mend(ctx); err != nil {
			return 0, err
		}
	}
}
