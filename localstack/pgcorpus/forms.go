package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// chunk is what is written before an answer is waited for.
type chunk struct {
	bytes []byte
	ready int // how often ReadyForQuery comes
	cut   int // 0: in one write; n: in writes of n bytes
}

// spelling is an attack in one form.
type spelling struct {
	form   string
	chunks []chunk
}

func encode(msgs ...pgproto3.FrontendMessage) []byte {
	var b []byte
	for _, m := range msgs {
		var err error
		if b, err = m.Encode(b); err != nil {
			panic(err) // cases are ours
		}
	}
	return b
}

func query(sql string) []byte { return encode(&pgproto3.Query{String: sql}) }

// run is a statement by the extended protocol, without its Sync.
func run(sql string, format int16) []byte {
	return encode(&pgproto3.Parse{Query: sql}, &pgproto3.Bind{ResultFormatCodes: []int16{format}}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{})
}

var syncMsg = encode(&pgproto3.Sync{})

// rowsOneByOne is a statement whose portal is read three times for a row, then to its end.
func rowsOneByOne(sql string, format int16) []byte {
	return slices.Concat(encode(&pgproto3.Parse{Query: sql}, &pgproto3.Bind{ResultFormatCodes: []int16{format}}, &pgproto3.Describe{ObjectType: 'P'},
		&pgproto3.Execute{MaxRows: 1}, &pgproto3.Execute{MaxRows: 1}, &pgproto3.Execute{}), syncMsg)
}

// each makes a chunk of every step.
func each(steps []string, cut int, of func(string) []byte) []chunk {
	var all []chunk
	for _, s := range steps {
		all = append(all, chunk{of(s), 1, cut})
	}
	return all
}

// last treats the last step apart: the others are simple queries.
func last(steps []string, cut int, of func(string) []string) []chunk {
	before, attack := steps[:len(steps)-1], steps[len(steps)-1]
	return each(append(slices.Clone(before), of(attack)...), cut, query)
}

func extended(s string) []byte { return slices.Concat(run(s, 0), syncMsg) }

func inBinary(s string) []byte { return slices.Concat(run(s, 1), syncMsg) }

func atOnce(steps []string) []chunk {
	var b []byte
	for _, s := range steps {
		b = append(b, query(s)...)
	}
	return []chunk{{b, len(steps), 0}}
}

// asDrivers is Parse and Describe, a Sync, then Bind and Execute.
func asDrivers(steps []string) []chunk {
	var all []chunk
	for _, s := range steps {
		all = append(all, chunk{slices.Concat(encode(&pgproto3.Parse{Name: "corpus_s", Query: s}, &pgproto3.Describe{ObjectType: 'S', Name: "corpus_s"}), syncMsg), 1, 0},
			chunk{slices.Concat(encode(&pgproto3.Bind{PreparedStatement: "corpus_s"}, &pgproto3.Execute{}, &pgproto3.Close{ObjectType: 'S', Name: "corpus_s"}), syncMsg), 1, 0})
	}
	return all
}

func pipelined(steps []string) []chunk {
	var b []byte
	for _, s := range steps {
		b = append(b, run(s, 0)...)
	}
	return []chunk{{append(b, syncMsg...), 1, 0}}
}

// form is a way to say a statement. A quick run takes one of the first quick ones for each attack, in turn.
type form struct {
	name string
	make func(steps []string) []chunk
}

const quick = 5

var forms = []form{
	{"simple", func(s []string) []chunk { return each(s, 0, query) }},
	{"extended", func(s []string) []chunk { return each(s, 0, extended) }},
	{"pipelined", pipelined},
	{"extended split", func(s []string) []chunk { return each(s, 1, extended) }},
	{"extended binary", func(s []string) []chunk { return each(s, 0, inBinary) }},
	{"simple split", func(s []string) []chunk { return each(s, 1, query) }},
	{"simple in sevens", func(s []string) []chunk { return each(s, 7, query) }},
	{"queries at once", atOnce},
	{"as drivers", asDrivers},
	{"binary split", func(s []string) []chunk { return each(s, 1, inBinary) }},
	{"rows one by one", func(s []string) []chunk { return each(s, 0, func(s string) []byte { return rowsOneByOne(s, 0) }) }},
	{"rows one by one split", func(s []string) []chunk { return each(s, 1, func(s string) []byte { return rowsOneByOne(s, 0) }) }},
	{"rows one by one binary", func(s []string) []chunk { return each(s, 0, func(s string) []byte { return rowsOneByOne(s, 1) }) }},
	{"prepared", func(s []string) []chunk {
		return last(s, 0, func(a string) []string { return []string{"PREPARE corpus_p AS " + a, "EXECUTE corpus_p"} })
	}},
	{"cursor", func(s []string) []chunk {
		return last(s, 0, func(a string) []string {
			return []string{"BEGIN", "DECLARE corpus_c CURSOR FOR " + a, "FETCH ALL FROM corpus_c", "COMMIT"}
		})
	}},
	{"binary cursor", func(s []string) []chunk {
		return last(s, 0, func(a string) []string {
			return []string{"BEGIN", "DECLARE corpus_c BINARY CURSOR FOR " + a, "FETCH ALL FROM corpus_c", "COMMIT"}
		})
	}},
	{"copy", func(s []string) []chunk {
		return last(s, 0, func(a string) []string { return []string{"COPY (" + a + ") TO STDOUT"} })
	}},
	{"derived table", func(s []string) []chunk {
		return last(s, 0, func(a string) []string { return []string{"SELECT corpus_x.* FROM (" + a + ") AS corpus_x OFFSET 0"} })
	}},
	{"with", func(s []string) []chunk {
		return last(s, 0, func(a string) []string {
			return []string{"WITH corpus_w AS MATERIALIZED (" + a + ") SELECT corpus_w::text FROM corpus_w"}
		})
	}},
	{"block", func(s []string) []chunk {
		return last(s, 0, func(a string) []string { return []string{"DO $corpus$ BEGIN " + a + "; END $corpus$"} })
	}},
	{"explain analyze", func(s []string) []chunk {
		return last(s, 0, func(a string) []string { return []string{"EXPLAIN ANALYZE " + a} })
	}},
	{"transaction", func(s []string) []chunk {
		return each(append(append([]string{"BEGIN"}, s...), "COMMIT"), 0, query)
	}},
}

// spellings are all forms of the attack, or the quick ones.
func (a attack) spellings(all bool) ([]spelling, error) {
	if len(a.Messages) > 0 {
		return spellMessages(a.Messages, a.Ready)
	}
	if len(a.Steps) == 0 {
		if len(a.Guess) != 2 {
			return nil, errors.New("neither steps, messages nor two guesses")
		}
		a.Steps = a.Guess[:1]
	}
	for _, name := range a.Forms {
		if !slices.ContainsFunc(forms, func(f form) bool { return f.name == name }) {
			return nil, fmt.Errorf("no form %q", name)
		}
	}
	var out []spelling
	for i, f := range forms {
		if len(a.Forms) > 0 && !slices.Contains(a.Forms, f.name) || len(a.Forms) == 0 && !all && i >= quick {
			continue
		}
		out = append(out, spelling{f.name, f.make(a.Steps)})
	}
	return out, nil
}

// spellMessages sends messages as they stand: in one write, byte by byte, one by one, in two parts, and behind a query.
func spellMessages(msgs [][]any, expected int) ([]spelling, error) {
	var parts [][]byte
	ready := 0
	for _, m := range msgs {
		b, err := message(m)
		if err != nil {
			return nil, err
		}
		parts = append(parts, b)
		if strings.ContainsRune("QSF", rune(b[0])) {
			ready++
		}
	}
	if expected > 0 {
		ready = expected // a Query that is skipped after an error answers nothing
	}
	whole := slices.Concat(parts...)
	return []spelling{
		{"as written", []chunk{{whole, ready, 0}}},
		{"byte by byte", []chunk{{whole, ready, 1}}},
		{"in threes", []chunk{{whole, ready, 3}}},
		{"in two parts", []chunk{{whole, ready, len(whole)/2 + 1}}},
		{"behind a query", []chunk{{slices.Concat(query("SELECT 1"), whole), ready + 1, 0}}},
	}, nil
}

// message encodes one of cases.yaml.
func message(m []any) ([]byte, error) {
	tag, ok := m[0].(string)
	if !ok || len(tag) != 1 {
		return nil, fmt.Errorf("message %v: the first is its tag", m)
	}
	text := func(i int) string {
		if i < len(m) {
			return fmt.Sprint(m[i])
		}
		return ""
	}
	number := func(i int) uint32 {
		if i < len(m) {
			if n, ok := m[i].(int); ok {
				return uint32(n) //nolint:gosec // cases are ours
			}
		}
		return 0
	}
	switch tag {
	case "Q":
		return query(text(1)), nil
	case "P":
		return encode(&pgproto3.Parse{Name: text(1), Query: text(2)}), nil
	case "B":
		b := &pgproto3.Bind{DestinationPortal: text(1), PreparedStatement: text(2)}
		for i := 3; i < len(m); i++ {
			b.ResultFormatCodes = append(b.ResultFormatCodes, int16(number(i))) //nolint:gosec // 0 or 1
		}
		return encode(b), nil
	case "D":
		return encode(&pgproto3.Describe{ObjectType: text(1)[0], Name: text(2)}), nil
	case "C":
		return encode(&pgproto3.Close{ObjectType: text(1)[0], Name: text(2)}), nil
	case "E":
		return encode(&pgproto3.Execute{Portal: text(1), MaxRows: number(2)}), nil
	case "S":
		return syncMsg, nil
	case "H":
		return encode(&pgproto3.Flush{}), nil
	case "F":
		return encode(&pgproto3.FunctionCall{Function: number(1), ArgFormatCodes: []uint16{1}, Arguments: [][]byte{binary.BigEndian.AppendUint32(nil, number(2))}, ResultFormatCode: 1}), nil
	}
	return nil, fmt.Errorf("message %v: no such tag", m)
}
