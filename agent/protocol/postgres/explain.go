package postgres

import (
	"encoding/binary"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// widths are the places of a plan where the server says how long a row is on average, in each format of EXPLAIN. On a table of few rows that
// is the length of a value.
var widths = regexp.MustCompile(`(width=|Plan Width": |Plan-Width>|Plan Width: )[0-9]+`)

// showsPlan says whether the rows of a command are a plan that may tell lengths of protected values.
func (f *front) showsPlan(c access.Command) bool {
	return f.guarded() && strings.HasPrefix(c.Verb, "EXPLAIN")
}

// withoutWidths appends a row of EXPLAIN's one column without them.
func withoutWidths(dst, msg []byte) ([]byte, error) {
	c := cursor{b: msg[header:]}
	if n := c.uint16(); n != 1 || c.bad {
		return dst, errMalformed
	}
	size := int(int32(c.uint32()))
	if size < 0 || size != len(c.b) {
		return dst, errMalformed
	}
	text := widths.ReplaceAll(c.b, []byte("${1}0"))
	dst, at := frame(dst, 'D')
	dst = binary.BigEndian.AppendUint16(dst, 1)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(text)))
	return seal(append(dst, text...), at), nil
}
