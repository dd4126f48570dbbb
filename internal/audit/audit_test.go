package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/store"
)

func TestBodiesOpenOnlyWithTheirKeyAndID(t *testing.T) {
	key, id := bytes.Repeat([]byte{7}, 32), access.CommandID("01A")
	c := access.Command{ID: id, Text: "select 'canary'", Params: []access.Param{{Value: []byte("p")}, {Null: true}}}
	kept, err := audit.CommandOf(c, "digest", key)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(kept.Body, []byte("canary")) {
		t.Fatal("the exact text lies in the open")
	}
	b, err := audit.OpenBody(kept, id, key)
	if err != nil || b.Text != c.Text || len(b.Params) != 2 || string(b.Params[0].Value) != "p" || !b.Params[1].Null {
		t.Fatalf("%+v, %v", b, err)
	}
	if _, err := audit.OpenBody(kept, "01B", key); err == nil {
		t.Error("opened under another id")
	}
	if _, err := audit.OpenBody(kept, id, bytes.Repeat([]byte{8}, 32)); err == nil {
		t.Error("opened under another key")
	}
	for n := range kept.Body {
		cut := *kept
		cut.Body = kept.Body[:n]
		if _, err := audit.OpenBody(&cut, id, key); err == nil {
			t.Fatalf("opened when cut to %d bytes", n)
		}
	}
	if _, err := audit.CommandOf(c, "digest", key[:31]); err == nil {
		t.Error("a short key was taken")
	}
}

func TestKeysOfEntries(t *testing.T) {
	id := ulid.MustNew(ulid.Timestamp(time.Date(2026, 1, 2, 3, 4, 59, 0, time.UTC)), ulid.DefaultEntropy()).String()
	for _, tt := range []struct {
		e      audit.Entry
		pk, sk string
	}{
		{audit.Entry{Kind: audit.KindOpen, Session: "S"}, "2026-01-02T03:04#0", "S#!open"},
		{audit.Entry{Kind: audit.KindCommand, Session: "S", Seq: 31}, "2026-01-02T03:04#0", "S#000000000000001f#c"},
		{audit.Entry{Kind: audit.KindOutcome, Session: "S", Seq: 31}, "2026-01-02T03:04#0", "S#000000000000001f#o"},
		{audit.Entry{Kind: audit.KindLogin}, "2026-01-02T03:04#0", "-#" + id},
		{audit.Entry{Kind: "odd", Session: "S"}, "", ""},
		{audit.Entry{Kind: audit.KindCommand}, "", ""},
	} {
		tt.e.ID = id
		k, err := audit.Key(tt.e)
		if (err != nil) != (tt.pk == "") || err == nil && k != (store.Key{PK: tt.pk, SK: tt.sk}) {
			t.Errorf("%s: %+v, %v", tt.e.Kind, k, err)
		}
	}
	if _, err := audit.Key(audit.Entry{Kind: audit.KindOpen, Session: "S", ID: "not-a-ulid"}); err == nil {
		t.Error("an id that is no ULID was taken")
	}
	if _, err := audit.Put(); err == nil {
		t.Error("an empty item was made")
	}
}

func checkpoint(t testing.TB) (signed []byte, key string) {
	t.Helper()
	keys, err := keyfile.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.Signer("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	c := audit.Checkpoint{Origin: "sallyport.test/audit", Size: 7, Time: time.Now()}
	if signed, err = audit.SignCheckpoint(context.Background(), c, signer); err != nil {
		t.Fatal(err)
	}
	if key, err = audit.VerifierKey(c.Origin, signer.Public()); err != nil {
		t.Fatal(err)
	}
	return signed, key
}

// A signature whose length is no multiple of three leaves bits in its last character that no decoder needs.
func TestASignatureHasOneSpelling(t *testing.T) {
	for range 200 { // DER signatures have 70 to 72 bytes, with four of the key's id: most leave such bits
		signed, key := checkpoint(t)
		end := bytes.IndexByte(signed[bytes.LastIndexByte(signed[:len(signed)-1], '\n')+1:], '=')
		if end < 0 {
			continue
		}
		other := bytes.Clone(signed)
		last := bytes.LastIndexByte(signed[:len(signed)-1], '\n') + end
		other[last]++ // from A to B, from w to x: the bits that are not needed are zero
		if _, err := audit.OpenCheckpoint(signed, key); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.OpenCheckpoint(other, key); err == nil {
			t.Fatalf("also signed: %q", other[last-8:])
		}
		return
	}
	t.Fatal("no signature with unused bits")
}

func TestCheckpointsAreSigned(t *testing.T) {
	signed, key := checkpoint(t)
	c, err := audit.OpenCheckpoint(signed, key+"\n")
	if err != nil || c.Size != 7 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, bad := range []string{
		strings.Replace(string(signed), "\n7\n", "\n8\n", 1),
		strings.Replace(string(signed), "sallyport.test", "sallyport.evil", 1),
		string(signed) + "— other AAAAAAAA\n",
		"", "\n\n",
	} {
		if _, err := audit.OpenCheckpoint([]byte(bad), key); err == nil {
			t.Errorf("opened %q", bad)
		}
	}
	if _, err := audit.OpenCheckpoint(signed, "garbage"); err == nil {
		t.Error("opened with a garbage key")
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	signed, key := checkpoint(f)
	f.Add(signed, key)
	f.Fuzz(func(t *testing.T, b []byte, k string) {
		c, err := audit.OpenCheckpoint(b, k)
		if err == nil && (c.Size < 0 || c.Origin == "") {
			t.Fatalf("opened as %+v", c)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[{"v":1,"kind":"open","id":"x","time":"2026-01-02T03:04:05Z"}]`))
	f.Add([]byte(` [ {"v":1, "kind":"open"} , {"id":" ,\"[ "}
]`))
	f.Add([]byte("[{\"id\"\t:\r\n\" \\\\\" , \"agent\": \"\\\" \\\\\\\" \\u0022 \"}]"))
	f.Add([]byte(`[{"v":1}] {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		it := store.Item{Body: b}
		entries, err := audit.Decode(it)
		leaves, lerr := audit.Leaves(it)
		if err != nil {
			return
		}
		if lerr == nil && len(leaves) != len(entries) {
			t.Fatalf("%d entries, %d leaves", len(entries), len(leaves))
		}
		if lerr == nil {
			var whole bytes.Buffer
			if err := json.Compact(&whole, b); err != nil || "["+string(bytes.Join(leaves, []byte(",")))+"]" != whole.String() {
				t.Fatalf("leaves %q of %q: %v", leaves, b, err)
			}
			back, err := audit.SplitSegment(audit.Segment(leaves))
			if err != nil || len(back) != len(leaves) {
				t.Fatalf("segment of %d leaves splits into %d: %v", len(leaves), len(back), err)
			}
		}
	})
}
