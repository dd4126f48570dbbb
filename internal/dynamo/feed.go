package dynamo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/sallyport/sallyport/internal/store"
)

// The feed of the audit table. DynamoDB has no order over partitions, and its streams forget after a day; so an item says in which
// millisecond it was written, and before it is written, an index entry in the same table says in which minute its partition was
// written to. A minute that is over, and over for long enough that no write begun in it can still arrive, never changes again: the
// feed is those minutes, one after another, their items in the order (written, pk, sk).
//
//	PK "~days"        SK "2026-01-02"                     that day has an index
//	PK "~2026-01-02"  SK "03:04#2026-01-02T03:04#0"       in minute 03:04, items were written to that partition
//	PK "~2026-01-02"  SK "03:04!<SHA-256 of the key>"     in minute 03:04, one item was written to a partition of another time
//
// An index entry without its item is harmless: the item's own time decides. A process writes each entry once, so that the index costs
// one write a minute, and one for each outcome or verdict that comes minutes after its command.
const (
	indexDays   = "~days"
	indexPrefix = "~"
	dayShape    = "2006-01-02"
	minuteShape = "15:04"
)

// settle is how long after its end a minute stays open: callLimit for a write under way, and twice that for clocks that differ and
// requests that linger. What comes even later is not lost: verification counts it as stored and not sealed.
const settle = 3 * callLimit

// index remembers what this process has entered for the minute that it is in.
type index struct {
	mu       sync.Mutex
	day      string // entered
	minute   string
	entered  map[string]bool
	underway map[string]chan struct{} // closed when somebody's try to enter it is over
}

// once enters what many need at a minute's beginning: one does it, the others wait for that, and go on if it was done.
func (x *index) once(ctx context.Context, name string, done func() bool, enter func() error) error {
	for {
		x.mu.Lock()
		if done() {
			x.mu.Unlock()
			return nil
		}
		other, busy := x.underway[name]
		if !busy {
			break
		}
		x.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return fmt.Errorf("feed index: %w", ctx.Err())
		}
	}
	mine := make(chan struct{})
	if x.underway == nil {
		x.underway = map[string]chan struct{}{}
	}
	x.underway[name] = mine
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		delete(x.underway, name)
		x.mu.Unlock()
		close(mine)
	}()
	return enter()
}

// mark makes sure that the index leads to an item that is about to be written at now.
func (t *Tables) mark(ctx context.Context, now time.Time, k store.Key) error {
	if strings.HasPrefix(k.PK, indexPrefix) {
		return fmt.Errorf("audit partition %q: the feed's own", clip(k.PK))
	}
	now = now.UTC()
	day, clock := now.Format(dayShape), now.Format(minuteShape)
	e := indexEntry{PK: k.PK}
	sk := clock + "#" + k.PK
	if !near(k.PK, now) {
		h := sha256.Sum256([]byte(k.PK + "\x00" + k.SK))
		e.SK, sk = k.SK, clock+"!"+hex.EncodeToString(h[:])
	}
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("feed index: %w", err)
	}
	if err := t.enterDay(ctx, day); err != nil {
		return err
	}
	name := day + sk
	if e.SK != "" { // single items are many, and seldom come twice
		return t.enter(ctx, store.Key{PK: indexPrefix + day, SK: sk}, body)
	}
	x := &t.index
	done := func() bool { return x.minute == day+clock && x.entered[name] }
	return x.once(ctx, name, done, func() error {
		if err := t.enter(ctx, store.Key{PK: indexPrefix + day, SK: sk}, body); err != nil {
			return err
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.minute != day+clock {
			x.minute, x.entered = day+clock, map[string]bool{}
		}
		x.entered[name] = true
		return nil
	})
}

func (t *Tables) enterDay(ctx context.Context, day string) error {
	x := &t.index
	return x.once(ctx, day, func() bool { return x.day == day }, func() error {
		if err := t.enter(ctx, store.Key{PK: indexDays, SK: day}, nil); err != nil {
			return err
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.day = day
		return nil
	})
}

// near says whether a partition is of about now, so that reading it whole for one minute reads little else.
func near(pk string, now time.Time) bool {
	of, _, _ := strings.Cut(pk, "#")
	m, err := time.Parse(dayShape+"T"+minuteShape, of)
	return err == nil && now.Sub(m).Abs() < 3*time.Minute
}

// indexEntry is a partition, or one item of it.
type indexEntry struct {
	PK string `json:"pk"`
	SK string `json:"sk,omitempty"`
}

// enter writes an index entry that may be there.
func (t *Tables) enter(ctx context.Context, k store.Key, body []byte) error {
	p, err := t.put(store.Write{Table: store.Audit, Item: store.Item{Key: k, Body: body}})
	if err != nil {
		return fmt.Errorf("feed index: %w", err)
	}
	_, err = t.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: p.TableName, Item: p.Item, ConditionExpression: p.ConditionExpression})
	var there *types.ConditionalCheckFailedException
	if err != nil && !errors.As(err, &there) {
		return fmt.Errorf("feed index %s %s: %w", k.PK, k.SK, err)
	}
	return nil
}

// place is the cursor: the last item given. The zero place is the beginning.
type place struct {
	Minute  string `json:"minute"`  // "2026-01-02T03:04"
	Written int64  `json:"written"` // Unix milliseconds
	PK      string `json:"pk"`
	SK      string `json:"sk"`
}

func (p place) compare(o place) int {
	return cmp.Or(strings.Compare(p.Minute, o.Minute), cmp.Compare(p.Written, o.Written), strings.Compare(p.PK, o.PK), strings.Compare(p.SK, o.SK))
}

// minute is a closed minute, whole.
type minute struct {
	name  string
	lines []line
}

type line struct {
	place
	item store.Item
}

// Since gives the audit table's items after a cursor, as far as their minutes are closed.
func (t *Tables) Since(ctx context.Context, table, after string, limit int) ([]store.Item, string, error) {
	if table != store.Audit {
		return nil, after, fmt.Errorf("feed of %s: the audit table alone has one", table)
	}
	at, err := parsePlace(after)
	if err != nil {
		return nil, after, fmt.Errorf("feed of %s: %w", table, err)
	}
	if at.Minute > t.closed() {
		return nil, after, fmt.Errorf("feed of %s: minute %s of the cursor is not over: this clock is behind", table, at.Minute)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var items []store.Item
	next := after
	for name := at.Minute; len(items) < limit; {
		if name != "" {
			if err := t.load(ctx, name); err != nil {
				return nil, after, fmt.Errorf("feed of %s: %w", table, err)
			}
			lines := t.minute.lines
			from, _ := slices.BinarySearchFunc(lines, at, func(l line, p place) int { return cmp.Or(l.compare(p), -1) })
			lines = lines[from:min(len(lines), from+limit-len(items))]
			for _, l := range lines {
				items = append(items, l.item)
			}
			if n := len(lines); n > 0 {
				next = lines[n-1].String()
			}
		}
		if name, err = t.following(ctx, name); err != nil {
			return nil, after, fmt.Errorf("feed of %s: %w", table, err)
		}
		if name == "" {
			break
		}
	}
	return items, next, nil
}

func (p place) String() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of strings and a number
	}
	return string(b)
}

func parsePlace(s string) (place, error) {
	var p place
	if s == "" {
		return p, nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	err := d.Decode(&p)
	if _, bad := time.Parse(dayShape+"T"+minuteShape, p.Minute); err != nil || bad != nil || d.More() {
		return place{}, fmt.Errorf("cursor %q is not of this store", clip(s))
	}
	return p, nil
}

// closed is the last minute that no write can reach any more.
func (t *Tables) closed() string {
	return t.now().Add(-settle - time.Minute).UTC().Format(dayShape + "T" + minuteShape)
}

// following is the first closed minute after one that has anything; "" if there is none.
func (t *Tables) following(ctx context.Context, name string) (string, error) {
	day, clock, _ := strings.Cut(name, "T")
	for {
		if day != "" {
			after := between{clock + "~", "~"} // '~' is behind every clock, '#' and '!'
			if clock == "" {
				after.low = "0"
			}
			sk, err := t.first(ctx, indexPrefix+day, after)
			if err != nil {
				return "", err
			}
			if sk != "" {
				found := day + "T" + sk[:min(len(sk), len(minuteShape))]
				if found > t.closed() {
					return "", nil
				}
				return found, nil
			}
		}
		var err error
		if day, err = t.first(ctx, indexDays, between{day + "!", "~"}); err != nil || day == "" {
			return "", err
		}
		clock = ""
	}
}

// first is the least SK in a range, or "".
func (t *Tables) first(ctx context.Context, pk string, b between) (sk string, err error) {
	_, err = t.scan(ctx, store.Audit, pk, b, 1, func(it store.Item, _ time.Time) { sk = it.SK })
	return sk, err
}

// load reads a closed minute into t.minute, unless it is there.
func (t *Tables) load(ctx context.Context, name string) error {
	if t.minute.name == name {
		return nil
	}
	start, err := time.Parse(dayShape+"T"+minuteShape, name)
	if err != nil {
		return err
	}
	m := minute{name: name}
	take := func(it store.Item, written time.Time) {
		if !written.Before(start) && written.Before(start.Add(time.Minute)) {
			m.lines = append(m.lines, line{place{name, written.UnixMilli(), it.PK, it.SK}, it})
		}
	}
	day, clock, _ := strings.Cut(name, "T")
	var entries []indexEntry
	bad := error(nil)
	err = t.all(ctx, indexPrefix+day, span(clock, ""), func(it store.Item, _ time.Time) {
		e, err := parseEntry(it.Body)
		bad = errors.Join(bad, err)
		entries = append(entries, e)
	})
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	for _, e := range entries {
		if e.SK == "" {
			err = t.all(ctx, e.PK, span("", ""), take)
		} else {
			err = t.one(ctx, store.Key(e), take)
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(m.lines, func(a, b line) int { return a.compare(b.place) })
	// A late item whose partition is in the index too was read twice.
	m.lines = slices.CompactFunc(m.lines, func(a, b line) bool { return a.place == b.place })
	t.minute = m
	return nil
}

func parseEntry(b []byte) (indexEntry, error) {
	var e indexEntry
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil || e.PK == "" {
		return e, fmt.Errorf("feed index: %w", errors.Join(err, errForeign))
	}
	return e, nil
}

// all reads a range to its end.
func (t *Tables) all(ctx context.Context, pk string, b between, each func(store.Item, time.Time)) error {
	for {
		last := ""
		more, err := t.scan(ctx, store.Audit, pk, b, 10_000, func(it store.Item, w time.Time) { last = it.SK; each(it, w) })
		if err != nil || !more {
			return err
		}
		b.low = last + "\x00"
	}
}

// one reads an item that may not be there: its index entry is written first.
func (t *Tables) one(ctx context.Context, k store.Key, each func(store.Item, time.Time)) error {
	it, written, err := t.get(ctx, store.Audit, k, true)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		each(it, written)
	}
	return err
}
