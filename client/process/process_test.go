package process

import (
	"math"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	rest := " S 42 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2"
	for name, tc := range map[string]struct {
		line   string
		want   stat
		broken bool
	}{
		"plain":                  {"7 (sh)" + rest, stat{parent: 42, start: 987654, state: 'S'}, false},
		"name that lies":         {"7 (x) S 1 (y)" + rest, stat{parent: 42, start: 987654, state: 'S'}, false},
		"name with line ends":    {"7 (a\nb)\n)" + rest, stat{parent: 42, start: 987654, state: 'S'}, false},
		"empty":                  {"", stat{}, true},
		"no name":                {"7 sh S 42", stat{}, true},
		"too few fields":         {"7 (sh) S 42 1", stat{}, true},
		"parent is no number":    {"7 (sh)" + strings.Replace(rest, "42", "x", 1), stat{}, true},
		"parent is negative":     {"7 (sh)" + strings.Replace(rest, "42", "-1", 1), stat{}, true},
		"start time is negative": {"7 (sh)" + strings.Replace(rest, "987654", "-5", 1), stat{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.line))
			if got != tc.want || (err != nil) != tc.broken {
				t.Errorf("got %+v, %v; want %+v, error %v", got, err, tc.want, tc.broken)
			}
		})
	}
}

func TestParseLocks(t *testing.T) {
	head := "Limit                     Soft Limit           Hard Limit           Units     \n"
	for name, tc := range map[string]struct {
		text    string
		limit   uint64
		limited bool
		broken  bool
	}{
		"unlimited":   {head + "Max file locks            unlimited            unlimited            locks     \n", 0, false, false},
		"a number":    {head + "Max file locks            5                    6                    locks     \n", 6, true, false},
		"soft only":   {head + "Max file locks            5                    unlimited            locks     \n", 0, false, false},
		"no line":     {head, 0, false, true},
		"cut":         {head + "Max file locks            5\n", 0, false, true},
		"no number":   {head + "Max file locks            5 many locks\n", 0, false, true},
		"over 64 bit": {head + "Max file locks            5 99999999999999999999 locks\n", 0, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			limit, limited, err := parseLocks([]byte(tc.text))
			if limit != tc.limit || limited != tc.limited || (err != nil) != tc.broken {
				t.Errorf("got %d, %v, %v", limit, limited, err)
			}
		})
	}
}

func TestMarkOf(t *testing.T) {
	for _, tc := range []struct {
		limit uint64
		want  Mark
	}{
		{0, 0}, {1024, 0}, {math.MaxUint64, 0}, {uint64(markBottom), markBottom}, {uint64(markTop), markTop},
		{uint64(markTop) + 1, 0}, {uint64(markBottom) - 1, 0},
	} {
		if got := markOf(tc.limit); got != tc.want {
			t.Errorf("markOf(%x) = %x, want %x", tc.limit, got, tc.want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sh) S 42 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2"))
	f.Add([]byte("Max file locks 5 6 locks"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(b); err == nil && s.parent < 0 {
			t.Errorf("parent %d", s.parent)
		}
		if limit, limited, err := parseLocks(b); err != nil && (limited || limit != 0) {
			t.Error("a limit beside an error")
		}
	})
}
