package main

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every row in few forms, at the bare server (where the attacks work) and through the room (where none does, and no control is refused).
// `make corpus` plays all forms.
func TestRoomStopsTheCorpus(t *testing.T) {
	st, err := openStage(t.Context(), options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	rows, err := load()
	if err != nil {
		t.Fatal(err)
	}
	p := &player{ground: st.ground, turncoat: st.turncoat}
	works, err := p.bare(t.Context(), rows, st.bare)
	if err != nil {
		t.Fatal(err)
	}
	s, err := st.subject(t.Context(), options{})
	if err != nil {
		t.Fatal(err)
	}
	results, err := p.play(t.Context(), rows, s, works)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if holes, refusals := table(&said, s, results); holes+refusals > 0 {
		t.Error(said.String())
	}
	for _, r := range results {
		if len(r.row.Attacks) > 0 && r.real == 0 {
			t.Errorf("%s: none of its attacks works at the bare server", r.row.ID)
		}
	}
}

// Every row of the public list is here, and none stands alone.
func TestRows(t *testing.T) {
	rows, err := load()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/reference/bypass-corpus.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Control.Want == "" || len(r.Attacks)+len(r.Wire)+len(r.Hostile) == 0 {
			t.Errorf("%s: no control, or nothing else", r.ID)
		}
		if !strings.Contains(string(doc), "| "+r.ID+" |") {
			t.Errorf("%s is not in docs/reference/bypass-corpus.md", r.ID)
		}
		n := len(r.Wire) + len(r.Hostile)
		for _, a := range r.Attacks {
			sps, err := a.spellings(true)
			if err != nil {
				t.Fatal(err)
			}
			n += len(sps)
		}
		if n < 5 {
			t.Errorf("%s: %d spellings, want 5", r.ID, n)
		}
	}
}

// A masked value is found in every disguise; what masks leave is not taken for one.
func TestLeaks(t *testing.T) {
	word := values[2]
	code := func(s string) (all []string) {
		for _, r := range s {
			all = append(all, string(r))
		}
		return all
	}
	for _, v := range []string{word, strings.ToUpper(word), reversed(word), hex.EncodeToString([]byte(word)), "\\x" + hex.EncodeToString([]byte(word)),
		base64.StdEncoding.EncodeToString([]byte("x" + word + "y")), "...kxqzv", strings.Join(code(word), "-"), "fa6a12ab", "4929071828364456", "$4,929,071,828,364,455.00"} {
		tr := transcript{}
		body := back(&pgproto3.DataRow{Values: [][]byte{[]byte("1"), []byte(v)}})
		tr.raw = body
		tr.note('D', body[5:])
		if got := leaks(&tr) != ""; got != (v != "fa6a12ab") {
			t.Errorf("%q: %t", v, got)
		}
	}
	tr := transcript{}
	for _, r := range word {
		body := back(&pgproto3.DataRow{Values: [][]byte{[]byte("1"), []byte(string(r)), []byte("x")}})
		tr.note('D', body[5:])
	}
	if leaks(&tr) == "" {
		t.Error("a value in a character a row passes")
	}
	tr = transcript{raw: []byte("z***@***.example ************4455 **********")}
	tr.note('D', tr.raw)
	if why := leaks(&tr); why != "" {
		t.Error(why)
	}
}
