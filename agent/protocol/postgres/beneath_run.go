package postgres

import (
	"github.com/sallyport/sallyport/internal/access"
)

// exchange puts the text that runs into Parse. What runs a statement must want the text that the target has.
func (it *item) exchange(r *running, c access.Command) *access.Denied {
	runs := ""
	if r.beneath && c.Masked != c.Text {
		runs = c.Masked
	}
	switch {
	case it.tag == 'P':
		if it.made.masked = runs; runs != "" {
			it.msg = withText(it.msg, runs)
		}
	case it.portal != nil && it.portal.statement != nil && it.portal.statement.masked != runs:
		return &access.Denied{Code: access.CodeNotMaskable, Rule: "postgres.beneath", Command: r.permit.Command(), Retryable: true,
			Hint: "what you may see of its data is not what it was when the statement was prepared: prepare it again"}
	}
	return nil
}

// maxFirsts bounds what a session remembers of its second texts, and maxKept their bytes: beyond, it begins anew, and what was made before
// has to be made again.
const maxFirsts = 1000

// remember keeps the client's text of a second one that gives something a name at the target, where it is found again by the second.
func (f *front) remember(c access.Command) {
	switch c.Verb {
	case "PREPARE SELECT", "DECLARE CURSOR", "MULTI":
	default:
		return
	}
	if size := len(c.Text) + len(c.Masked); len(f.firsts) >= maxFirsts || f.firstBytes+size > maxKept {
		f.firsts, f.firstBytes = nil, 0
	}
	if f.firsts == nil {
		f.firsts = make(map[string]string)
	}
	if _, known := f.firsts[c.Masked]; !known {
		f.firsts[c.Masked] = c.Text
		f.firstBytes += len(c.Text) + len(c.Masked)
	}
}

func (f *front) firstText(second string) (string, bool) {
	first, ok := f.firsts[second]
	return first, ok
}

// withText is a Parse message with another text.
func withText(msg []byte, text string) []byte {
	c := cursor{b: msg[header:]}
	name := c.text()
	c.text()
	out, at := frame(make([]byte, 0, len(msg)+len(text)), 'P')
	out = appendText(appendText(out, string(name)), text)
	return seal(append(out, c.b...), at)
}

// unplaced leaves out of an error where in the text it is: the client did not write that text.
func unplaced(msg []byte) []byte {
	out := append([]byte(nil), msg[:header]...)
	c := cursor{b: msg[header:]}
	for kind := c.byte(); kind != 0 && !c.bad; kind = c.byte() {
		v := c.text()
		if kind != 'P' && kind != 'p' && kind != 'q' {
			out = append(append(append(out, kind), v...), 0)
		}
	}
	return seal(append(out, 0), 0)
}
