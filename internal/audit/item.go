package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/store"
)

// Key is where an entry's item lives in the audit table. The minute is of the id's own time, so that a retry finds the same
// place; the shard spreads a minute over partitions: 0 where there is one.
//
//	PK  "2026-01-02T03:04#0"
//	SK  "SESSION#000000000000001f#c" commands (a JSON array of consecutive entries, named after the first)
//	    "SESSION#000000000000001f#o" an outcome; "#h" the verdict of its hold; "#k" its claim or withdrawal;
//	    "SESSION#000000000000001f#r#000002" a chunk of its recording
//	    "SESSION#!open", "SESSION#~close"
//	    "-#ULID" entries of no session
//
// Entries that belong to a command (outcome, claim, withdraw) carry the command's id, so that they land in its partition.
func Key(e Entry) (store.Key, error) {
	id, err := ulid.ParseStrict(e.ID)
	if err != nil {
		return store.Key{}, fmt.Errorf("audit entry id %q: %w", e.ID, err)
	}
	k := store.Key{PK: ulid.Time(id.Time()).UTC().Format("2006-01-02T15:04") + "#0"}
	seq := func(suffix string) string { return fmt.Sprintf("%s#%016x#%s", e.Session, e.Seq, suffix) }
	switch e.Kind {
	case KindOpen:
		k.SK = string(e.Session) + "#!open"
	case KindClose:
		k.SK = string(e.Session) + "#~close"
	case KindCommand:
		k.SK = seq("c")
	case KindOutcome:
		k.SK = seq("o")
	case KindVerdict:
		k.SK = seq("h")
	case KindClaim, KindWithdraw:
		k.SK = seq("k")
	case KindRecording:
		if e.Recording == nil {
			return store.Key{}, fmt.Errorf("audit entry %s of kind %s has no recording", e.ID, e.Kind)
		}
		k.SK = seq("r") + fmt.Sprintf("#%06d", e.Recording.Index)
	case KindLogin, KindDelegate, KindRevoke, KindEnroll:
		k.SK = "-#" + e.ID
		return k, nil
	default:
		return store.Key{}, fmt.Errorf("audit entry kind %q is not known", e.Kind)
	}
	if e.Session == "" {
		return store.Key{}, fmt.Errorf("audit entry %s of kind %s has no session", e.ID, e.Kind)
	}
	return k, nil
}

// Put is the write that stores consecutive entries as one item, if none is there. Its key comes from the first.
func Put(entries ...Entry) (store.Write, error) {
	if len(entries) == 0 {
		return store.Write{}, errors.New("no audit entries")
	}
	k, err := Key(entries[0])
	if err != nil {
		return store.Write{}, err
	}
	body, err := json.Marshal(entries)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode audit entries: %w", err)
	}
	return store.Write{Table: store.Audit, Item: store.Item{Key: k, Body: body}}, nil
}

// Decode reads what Put wrote. Unknown fields are an error: somebody else wrote them.
func Decode(it store.Item) ([]Entry, error) {
	var entries []Entry
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&entries); err != nil {
		return nil, fmt.Errorf("decode audit item %s %s: %w", it.PK, it.SK, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("decode audit item %s %s: no entries", it.PK, it.SK)
	}
	return entries, nil
}

// isID says whether something is an id as the broker takes it: blobs are named after it.
func isID(s string) bool {
	u, err := ulid.ParseStrict(s)
	return err == nil && u.String() == s
}

// MinuteOf is the partition of a time, for readers that walk them.
func MinuteOf(t time.Time) string { return t.UTC().Format("2006-01-02T15:04") + "#0" }
