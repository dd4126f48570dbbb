package approval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

var born = time.Date(2026, 1, 7, 12, 0, 0, 0, time.UTC)

func id(t time.Time, n uint64) access.ApprovalID {
	u := ulid.ULID{}
	_ = u.SetTime(ulid.Timestamp(t))
	u[15] = byte(n)
	return access.ApprovalID(u.String())
}

func held() Record {
	return Record{ID: id(born, 1), Status: Pending, Hold: "prod-write", Session: "s", Command: "c", Seq: 3, Digest: "digest", Target: "app",
		State: access.State{Database: "app", Role: "app"}, Verb: "UPDATE", Text: "update accounts set balance = 0 where id = 1", Normalised: "update …",
		Params:  []access.Param{{Value: []byte{0, 255}}, {Null: true}},
		Touches: []access.Touch{{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: "public.accounts"}}},
		Lineage: access.Lineage{Principal: "alice", Groups: []string{"engineers"}, Path: []access.Node{{ID: "r", Name: "alice"}, {ID: "c", Name: "coder"}}},
		Agent:   "a1", Bundle: "sha256:x", Reviewers: []string{"reviewers", "leads"}, Created: born, Expires: born.Add(15 * time.Minute)}
}

// rita answers two minutes after the hold, having logged in for it a minute before.
var (
	now  = born.Add(2 * time.Minute)
	rita = Reviewer{Subject: "rita", Groups: []string{"everybody", "leads"}, AuthTime: now.Add(-time.Minute)}
)

func TestStatusAt(t *testing.T) {
	end := held().Expires
	for _, c := range []struct {
		status Status
		at     time.Time
		want   Status
	}{
		{Pending, end.Add(-1), Pending}, {Pending, end, Expired}, {Approved, end.Add(-1), Approved}, {Approved, end, Expired},
		{Denied, end, Denied}, {Withdrawn, end, Withdrawn}, {Claimed, end, Claimed}, {Expired, born, Expired}, {"", born, ""}, {"odd", end, "odd"},
	} {
		r := held()
		r.Status = c.status
		if got := r.StatusAt(c.at); got != c.want {
			t.Errorf("%q at %s: %q, want %q", c.status, c.at, got, c.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name string
		r    func(*Record)
		v    func(*Reviewer)
		at   time.Time
		want error // nil: it counts
	}{
		{name: "another person of a group, freshly"},
		{name: "nobody", v: func(v *Reviewer) { v.Subject = "" }, want: api.ErrLogin},
		{name: "the requester", v: func(v *Reviewer) { v.Subject = "alice" }, want: api.ErrDenied},
		{name: "no group", v: func(v *Reviewer) { v.Groups = nil }, want: api.ErrDenied},
		{name: "another group", v: func(v *Reviewer) { v.Groups = []string{"engineers", "administrators"} }, want: api.ErrDenied},
		{name: "no reviewers", r: func(r *Record) { r.Reviewers = nil }, want: api.ErrDenied},
		{name: "a login of before the hold", v: func(v *Reviewer) { v.AuthTime = born.Add(-3 * time.Second) }, want: api.ErrLogin},
		{name: "a login at the hold, by a clock that is behind", v: func(v *Reviewer) { v.AuthTime = born.Add(-2 * time.Second) }},
		{name: "a login that is old", v: func(v *Reviewer) { v.AuthTime = born }, at: born.Add(FreshLogin + time.Second), want: api.ErrLogin},
		{name: "a login that is just fresh", v: func(v *Reviewer) { v.AuthTime = born }, at: born.Add(FreshLogin)},
		{name: "a login that is to come", v: func(v *Reviewer) { v.AuthTime = now.Add(3 * time.Second) }, want: api.ErrLogin},
		{name: "no login time", v: func(v *Reviewer) { v.AuthTime = time.Time{} }, want: api.ErrLogin},
		{name: "expired", v: func(v *Reviewer) { v.AuthTime = held().Expires.Add(-time.Minute) }, at: held().Expires, want: api.ErrConflict},
		{name: "approved already", r: func(r *Record) { r.Status = Approved }, want: api.ErrConflict},
		{name: "denied already", r: func(r *Record) { r.Status = Denied }, want: api.ErrConflict},
		{name: "withdrawn", r: func(r *Record) { r.Status = Withdrawn }, want: api.ErrConflict},
		{name: "used", r: func(r *Record) { r.Status = Claimed }, want: api.ErrConflict},
		{name: "no status", r: func(r *Record) { r.Status = "" }, want: api.ErrConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, v, at := held(), rita, c.at
			if c.r != nil {
				c.r(&r)
			}
			if c.v != nil {
				c.v(&v)
			}
			if at.IsZero() {
				at = now
			}
			for _, answer := range []struct {
				with func(Record, Reviewer, string, time.Time) (Record, error)
				to   Status
			}{{Record.Approve, Approved}, {Record.Deny, Denied}} {
				got, err := answer.with(r, v, "because", at)
				if c.want != nil {
					if !errors.Is(err, c.want) || !reflect.DeepEqual(got, r) {
						t.Errorf("%s: %v, want %v; %+v", answer.to, err, c.want, got)
					}
					continue
				}
				want := r
				for _, g := range r.Reviewers {
					if slices.Contains(v.Groups, g) {
						want.ByGroups = append(want.ByGroups, g)
					}
				}
				if !got.StillReviewed(want.ByGroups[:1]) || got.StillReviewed([]string{"other"}) || got.StillReviewed(nil) {
					t.Errorf("%s: reviewed by %v", answer.to, got.ByGroups)
				}
				want.Status, want.By, want.Reason, want.AuthTime, want.DecidedAt = answer.to, "rita", "because", v.AuthTime, at
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %v\ngot  %+v\nwant %+v", answer.to, err, got, want)
				}
			}
		})
	}
	if _, err := held().Approve(rita, strings.Repeat("x", MaxReason+1), now); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("a long reason: %v", err)
	}
}

func TestMayReviewBeforeTheFreshLogin(t *testing.T) {
	v := rita
	v.AuthTime = born.Add(-24 * time.Hour)
	if err := held().MayReview(v, now); err != nil {
		t.Errorf("the page is not shown: %v", err)
	}
	v.Subject = "alice"
	if err := held().MayReview(v, now); !errors.Is(err, api.ErrDenied) {
		t.Errorf("the requester: %v", err)
	}
}

func TestClaim(t *testing.T) {
	yes, err := held().Approve(rita, "", now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		r      Record
		digest string
		at     time.Time
		want   error
	}{
		{"approved", yes, "digest", now, nil},
		{"another command", yes, "digesT", now, api.ErrDenied},
		{"no digest", yes, "", now, api.ErrDenied},
		{"expired", yes, "digest", yes.Expires, api.ErrConflict},
		{"pending", held(), "digest", now, api.ErrConflict},
		{"pending, expired", held(), "digest", yes.Expires, api.ErrConflict},
	} {
		got, err := c.r.Claim(c.digest, c.at)
		if c.want != nil {
			if !errors.Is(err, c.want) || got.Status != c.r.Status {
				t.Errorf("%s: %v, %s", c.name, err, got.Status)
			}
			continue
		}
		if err != nil || got.Status != Claimed || !got.UsedAt.Equal(c.at) || got.By != "rita" {
			t.Errorf("%s: %v, %+v", c.name, err, got)
		}
		if _, err := got.Claim(c.digest, c.at); !errors.Is(err, api.ErrConflict) {
			t.Errorf("a second time: %v", err)
		}
	}
	empty := yes
	empty.Digest = ""
	if _, err := empty.Claim("", now); err == nil {
		t.Error("a record without a digest is claimed")
	}
	no, err := held().Deny(rita, "", now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := no.Claim("digest", now); !errors.Is(err, api.ErrConflict) {
		t.Errorf("denied and claimed: %v", err)
	}
}

func TestWithdraw(t *testing.T) {
	yes, err := held().Approve(rita, "looks right", now)
	if err != nil {
		t.Fatal(err)
	}
	used, err := yes.Claim("digest", now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		r      Record
		at     time.Time
		reason string
		want   error
	}{
		{"pending", held(), now, "the client went away", nil},
		{"approved", yes, now, "looks right", nil}, // the reviewer's words stay
		{"used", used, now, "", api.ErrConflict},
		{"expired", held(), held().Expires, "", api.ErrConflict},
		{"approved, expired", yes, held().Expires, "", api.ErrConflict},
	} {
		got, err := c.r.Withdraw("the client went away", c.at)
		if c.want != nil {
			if !errors.Is(err, c.want) || got.Status != c.r.Status {
				t.Errorf("%s: %v, %s", c.name, err, got.Status)
			}
			continue
		}
		if err != nil || got.Status != Withdrawn || got.Reason != c.reason || !got.UsedAt.Equal(c.at) {
			t.Errorf("%s: %v, %+v", c.name, err, got)
		}
		if _, err := got.Claim("digest", c.at); err == nil {
			t.Errorf("%s: withdrawn and claimed", c.name)
		}
	}
	if _, err := held().Withdraw(strings.Repeat("x", MaxReason+1), now); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("a long reason: %v", err)
	}
}

func TestKey(t *testing.T) {
	k, err := Key(id(born, 1))
	if err != nil || k.PK != "day#2026-01-07" || k.SK != string(id(born, 1)) {
		t.Errorf("%+v, %v", k, err)
	}
	east := time.FixedZone("east", 12*3600)
	if k, _ := Key(id(time.Date(2026, 1, 8, 3, 0, 0, 0, east), 1)); k.PK != "day#2026-01-07" {
		t.Errorf("%+v: the day is not of UTC", k)
	}
	for _, bad := range []access.ApprovalID{"", "x", "01ARZ3NDEKTSV4RRFFQ69G5FA!", "81ARZ3NDEKTSV4RRFFQ69G5FAV"} {
		if _, err := Key(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func open(t *testing.T) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func put(t *testing.T, items store.Items, r Record, cond store.Cond) error {
	t.Helper()
	w, err := Put(r, cond)
	if err != nil {
		t.Fatal(err)
	}
	return items.Put(t.Context(), w)
}

func TestStore(t *testing.T) {
	db := open(t)
	r := held()
	if err := put(t, db, r, store.Cond{}); err != nil {
		t.Fatal(err)
	}
	if err := put(t, db, r, store.Cond{}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("put twice: %v", err)
	}
	got, it, err := Get(t.Context(), db, r.ID)
	if err != nil || !reflect.DeepEqual(got, r) || it.Version != 1 {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, r)
	}
	for _, missing := range []access.ApprovalID{id(born, 2), "nonsense"} {
		if _, _, err := Get(t.Context(), db, missing); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", missing, err)
		}
	}
	if _, err := Put(Record{ID: "x"}, store.Cond{}); err == nil {
		t.Error("a record without a good id is put")
	}
	r.Text = strings.Repeat("x", store.MaxItem)
	if _, err := Put(r, store.Cond{}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	r = held()
	r.Created = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // beyond what JSON times can say
	if _, err := Put(r, store.Cond{}); err == nil {
		t.Error("a record that cannot be encoded is put")
	}
}

func TestOfManyClaimsOneWins(t *testing.T) {
	db := open(t)
	yes, err := held().Approve(rita, "", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t, db, yes, store.Cond{}); err != nil {
		t.Fatal(err)
	}
	var won, lost int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			r, it, err := Get(context.Background(), db, yes.ID)
			if err == nil {
				if r, err = r.Claim("digest", now); err == nil {
					var w store.Write
					if w, err = Put(r, store.Cond{Version: it.Version}); err == nil {
						err = db.Put(context.Background(), w)
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case errors.Is(err, store.ErrConflict), errors.Is(err, api.ErrConflict):
				lost++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 || lost != 99 {
		t.Errorf("%d won and %d lost", won, lost)
	}
}

func TestWaiting(t *testing.T) {
	db := open(t)
	late := born.Add(11*time.Hour + 58*time.Minute) // two minutes before midnight
	add := func(at time.Time, n uint64, status Status) access.ApprovalID {
		r := held()
		r.ID, r.Status, r.Created, r.Expires = id(at, n), status, at, at.Add(15*time.Minute)
		if err := put(t, db, r, store.Cond{}); err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	a, b := add(late, 1, Pending), add(late.Add(5*time.Minute), 2, Pending)
	denied := add(late.Add(6*time.Minute), 3, Denied)
	old := add(born, 4, Pending)
	older := add(born.AddDate(0, 0, -2), 5, Pending)
	when := late.Add(7 * time.Minute) // the next day
	waiting, err := new(Waiting).List(t.Context(), db, when)
	if err != nil || !slices.Equal(ids(waiting), []access.ApprovalID{b, a}) {
		t.Errorf("%v, %v, want %s and %s, newest first", err, ids(waiting), b, a)
	}
	all, err := List(t.Context(), db, when, 4)
	if err != nil || !slices.Equal(ids(all), []access.ApprovalID{denied, b, a, old, older}) {
		t.Errorf("%v, %v", err, ids(all))
	}
	if none, err := List(t.Context(), db, when, 0); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", err, none)
	}
}

func ids(rs []Record) []access.ApprovalID {
	var out []access.ApprovalID
	for _, r := range rs {
		out = append(out, r.ID)
	}
	return out
}

// shelf answers queries with pages of its own; every other method is missing.
type shelf struct {
	store.Items
	items []store.Item // in order of SK
	err   error
}

func (s shelf) Query(_ context.Context, _, pk, prefix, cursor string, limit int) (store.Page, error) {
	if limit > 1000 || !strings.HasPrefix(pk, "day#") {
		return store.Page{}, fmt.Errorf("query of %s with limit %d", pk, limit)
	}
	var p store.Page
	for _, it := range s.items {
		switch {
		case !strings.HasPrefix(it.SK, prefix) || it.SK <= cursor:
		case len(p.Items) == limit:
			p.Cursor = p.Items[limit-1].SK
			return p, s.err
		default:
			p.Items = append(p.Items, it)
		}
	}
	return p, s.err
}

func (s shelf) Get(_ context.Context, _ string, _ store.Key, strong bool) (store.Item, error) {
	if !strong {
		return store.Item{}, errors.New("a stale read")
	}
	return s.items[0], s.err
}

func item(t *testing.T, n uint64) store.Item {
	t.Helper()
	r := held()
	r.ID = id(born.Add(time.Duration(n)*time.Millisecond), 0)
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return store.Item{Key: store.Key{PK: "day#2026-01-07", SK: string(r.ID)}, Body: body}
}

func TestListIsBoundedAndPaged(t *testing.T) {
	var items []store.Item
	for n := range uint64(1200) {
		items = append(items, item(t, n))
	}
	got, err := List(t.Context(), shelf{items: items}, born, 2)
	if err != nil || len(got) != MaxListed {
		t.Fatalf("%v, %d records", err, len(got))
	}
	for i, r := range got {
		if string(r.ID) != items[1199-i].SK {
			t.Fatalf("record %d is %s, want %s", i, r.ID, items[1199-i].SK)
		}
	}
	if _, err := new(Waiting).List(t.Context(), shelf{err: errors.New("throttled")}, born); err == nil {
		t.Error("a store that does not answer is an empty list")
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := item(t, 1)
	for name, body := range map[string]string{
		"not JSON":      "{",
		"unknown field": strings.Replace(string(good.Body), `{"id"`, `{"x":1,"id"`, 1),
		"trailing":      string(good.Body) + "{}",
		"another id":    strings.Replace(string(good.Body), good.SK, string(id(born, 9)), 1),
	} {
		it := good
		it.Body = []byte(body)
		s := shelf{items: []store.Item{it}}
		if _, err := List(t.Context(), s, born, 1); err == nil {
			t.Errorf("%s: listed", name)
		}
		if r, _, err := Get(t.Context(), s, access.ApprovalID(good.SK)); err == nil || r.Status != "" {
			t.Errorf("%s: read", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	body, err := json.Marshal(held())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(held().ID), body)
	f.Fuzz(func(t *testing.T, sk string, body []byte) {
		r, err := decode(store.Item{Key: store.Key{SK: sk}, Body: body})
		if err == nil && string(r.ID) != sk || err != nil && r.Status != "" {
			t.Errorf("%+v, %v", r, err)
		}
		// Whatever was stored, one claim at most follows from it, and only of an approved record.
		claimed, cerr := r.Claim(r.Digest, now)
		if cerr == nil && (r.StatusAt(now) != Approved || r.Digest == "") {
			t.Errorf("claimed %+v", r)
		}
		if _, err := claimed.Claim(r.Digest, now); err == nil {
			t.Errorf("claimed twice: %+v", r)
		}
	})
}
