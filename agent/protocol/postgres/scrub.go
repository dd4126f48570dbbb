package postgres

import (
	"bytes"
	"strings"
)

const (
	withheld = "a message of the target is withheld: its text may hold values of masked columns"
	maxNoted = 64 // PostgreSQL knows 18 kinds of field
)

// scrubbed rewrites an ErrorResponse or NoticeResponse of the target for a session in which some column is masked. Values can
// stand in the detail, in the context, in the text of an internal query, in whatever user code raised, and between quotes in the
// message of a data exception. What is left is written by the server's own code about names and positions.
func scrubbed(dst []byte, tag byte, body []byte) ([]byte, string) {
	f := fieldsOf(body)
	code := string(f['C'])
	strange := len(code) != 5
	if strange {
		code = stateInternal
	}
	severity := severityOf(f, tag)
	inCode := strange || len(f['W']) > 0 || bytes.HasPrefix(f['F'], []byte("pl_")) || string(f['F']) == "auto_explain.c" || strings.HasPrefix(code, "P0")
	message := f['M']
	switch {
	case inCode, len(message) == 0, code == "22021", code == "22P05": // bytes of a character stand before the first quote
		message = []byte(withheld)
	case strings.HasPrefix(code, "22"):
		message = unquoted(message)
	}
	dst, at := frame(dst, tag)
	dst = appendText(append(dst, 'S'), severity)
	dst = appendText(append(dst, 'V'), severity)
	dst = appendText(append(dst, 'C'), code)
	dst = append(append(append(dst, 'M'), message...), 0)
	keep := "HPFLR"
	if inCode {
		keep = "FLR"
	} else if strings.HasPrefix(code, "23") {
		keep = "HPFLRstcdn" // names of what was violated: drivers show them
	}
	for i := range len(keep) {
		if v, ok := f[keep[i]]; ok {
			dst = append(append(append(dst, keep[i]), v...), 0)
		}
	}
	return seal(append(dst, 0), at), code
}

// severityOf trusts only the words that drivers act on.
func severityOf(f map[byte][]byte, tag byte) string {
	s := string(f['V'])
	if s == "" {
		s = string(f['S'])
	}
	switch s {
	case "ERROR", "FATAL", "PANIC", "WARNING", "NOTICE", "DEBUG", "INFO", "LOG":
		return s
	}
	if tag == 'E' {
		return severityError
	}
	return severityNotice
}

// fieldsOf reads the fields of an ErrorResponse or NoticeResponse. A hostile one yields what could be read.
func fieldsOf(body []byte) map[byte][]byte {
	f := make(map[byte][]byte, 12)
	c := cursor{b: body}
	for range maxNoted {
		kind := c.byte()
		if c.bad || kind == 0 {
			break
		}
		v := c.text()
		if c.bad {
			break
		}
		if _, twice := f[kind]; !twice {
			f[kind] = v
		}
	}
	return f
}

// unquoted cuts a message where its first quoted part begins: in a data exception that is the value (in an integrity error it is
// the name of a constraint, and the values are in the detail).
func unquoted(m []byte) []byte {
	first := bytes.IndexByte(m, '"')
	if first < 0 {
		return m
	}
	return append(append([]byte(nil), m[:first]...), `"***"`...)
}

// sqlstateOf is the code of an error, or of one that has none.
func sqlstateOf(body []byte) string {
	if code := fieldsOf(body)['C']; len(code) == 5 {
		return string(code)
	}
	return stateInternal
}

func fatal(body []byte) bool {
	s := severityOf(fieldsOf(body), 'E')
	return s == severityFatal || s == "PANIC"
}
