package postgres

import (
	"github.com/sallyport/sallyport/internal/access"
)

// exchange puts the text that runs into Parse. What runs a statement must want the text that the target has.
func (it *item) exchange(r *running, c access.Command) *access.Denied {
	runs := ""
	if r.beneath {
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
