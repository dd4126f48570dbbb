package postgres

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/secret"
)

// field is one column of a RowDescription.
type field struct {
	origin origin
	typ    uint32
	format uint16
}

// fieldsOfRow reads a RowDescription's body.
func fieldsOfRow(body []byte) ([]field, error) {
	c := cursor{b: body}
	n := int(c.uint16())
	const least = 19 // an empty name and the fixed part
	if c.bad || n*least > len(c.b) {
		return nil, fmt.Errorf("%w: RowDescription of %d fields in %d bytes", errMalformed, n, len(body))
	}
	fields := make([]field, n)
	for i := range fields {
		c.text()
		fields[i].origin = origin{table: c.uint32(), column: c.uint16()}
		fields[i].typ = c.uint32()
		c.take(6) // size and modifier of the type
		fields[i].format = c.uint16()
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("RowDescription: %w", err)
	}
	return fields, nil
}

// maskedField is one masked column of a result.
type maskedField struct {
	index  int
	class  string
	masker mask.Masker
	shape  mask.Shape
	binary bool
	count  int64
}

// masking says what happens to the rows of one result. The zero masking lets everything pass.
type masking struct {
	fields  int
	columns []maskedField // by index
	grow    int           // the most bytes by which a row can become longer
}

// classifier names the class of a field: the catalogue.
type classifier interface {
	class(o origin) (class, masker string, known bool)
}

// maskingOf resolves a result's fields to what must be masked. A class is let through only where the command's facts had
// named it, so that policy was asked about it, and the permit does not oblige to mask it. A field that the catalogue does not know
// is an error: nothing of the result may pass.
func maskingOf(fields []field, cat classifier, declared []access.ClassUse, masks func(class string) bool, key secret.Secret) (*masking, error) {
	m := &masking{fields: len(fields)}
	for i, f := range fields {
		if f.origin.table == 0 {
			continue // an expression: facts has denied those over a masked column
		}
		class, name, known := cat.class(f.origin)
		if !known {
			return nil, fmt.Errorf("field %d comes from table %d column %d, which is not in the catalogue snapshot", i+1, f.origin.table, f.origin.column)
		}
		if class == "" {
			continue
		}
		asked := slices.ContainsFunc(declared, func(u access.ClassUse) bool { return u.Class == class })
		if asked && !masks(class) {
			continue
		}
		masker, _ := mask.New(name, key) // of one that this agent does not have, or has no key for, nothing shows
		col := maskedField{index: i, class: class, masker: masker, shape: maskShape(f), binary: f.format != textFormat}
		m.columns = append(m.columns, col)
		m.grow += mask.Growth + mask.Longest
	}
	return m, nil
}

// firstOwnType is where types made by users and extensions begin (citext, enums): in text format they read as text.
const firstOwnType = 16384

// maskShape says what a client that knows the field's type can parse. A type of the users' own in binary may be anything.
func maskShape(f field) mask.Shape {
	if f.typ >= firstOwnType && f.format == textFormat {
		return mask.Text
	}
	switch f.typ {
	case 18, 19, 25, 1042, 1043: // "char", name, text, bpchar, varchar: the same bytes in both formats
		return mask.Text
	case 21:
		return mask.Small
	case 23, 26: // int4, oid
		return mask.Integer
	case 20:
		return mask.Big
	case 700:
		return mask.Float
	case 701:
		return mask.Double
	case 1700:
		return mask.Numeric
	case 16:
		return mask.Boolean
	case 17:
		return mask.Bytes
	case 114:
		return mask.JSON
	case 3802:
		return mask.JSONB
	case 2950:
		return mask.UUID
	case 1082:
		return mask.DateOnly
	case 1083:
		return mask.Time
	case 1114:
		return mask.Timestamp
	case 1184:
		return mask.Zoned
	}
	return mask.Nothing
}

// row appends the masked form of one DataRow (msg: the whole message) to dst. It does not allocate where dst has room.
func (m *masking) row(dst, msg []byte) ([]byte, error) {
	if len(msg) < header+2 {
		return dst, errMalformed
	}
	n := int(binary.BigEndian.Uint16(msg[header:]))
	if n != m.fields {
		return dst, fmt.Errorf("%w: row of %d fields, described as %d", errMalformed, n, m.fields)
	}
	at := len(dst)
	from, pos := 0, header+2
	next := 0
	for i := range n {
		if len(msg)-pos < 4 {
			return dst[:at], errMalformed
		}
		size := int(int32(binary.BigEndian.Uint32(msg[pos:])))
		if size < -1 || size > len(msg)-pos-4 {
			return dst[:at], errMalformed
		}
		if next < len(m.columns) && m.columns[next].index == i {
			c := &m.columns[next]
			next++
			if size >= 0 {
				dst = append(dst, msg[from:pos]...)
				dst = c.appendField(dst, msg[pos+4:pos+4+size])
				from = pos + 4 + size
			}
		}
		pos += 4 + max(size, 0)
	}
	if pos != len(msg) {
		return dst[:at], errMalformed
	}
	dst = append(dst, msg[from:]...)
	return seal(dst, at), nil
}

func (c *maskedField) appendField(dst, v []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	c.count++
	out, null := c.masker.AppendAs(dst, v, c.shape, c.binary)
	if null {
		binary.BigEndian.PutUint32(out[at:], ^uint32(0))
		return out
	}
	binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	return out
}

// counted adds what was masked to counts, and starts anew.
func (m *masking) counted(counts map[string]int64) map[string]int64 {
	for i := range m.columns {
		c := &m.columns[i]
		if c.count == 0 {
			continue
		}
		if counts == nil {
			counts = make(map[string]int64, len(m.columns))
		}
		counts[c.class] += c.count
		c.count = 0
	}
	return counts
}

// large masks a row that is too long to be kept: as its bytes pass, each masked value is replaced by as many stars, since the length of the
// whole row has already left. It belongs to one row.
type large struct {
	m     *masking
	left  int // bytes of the row that are to come
	field int
	next  int
	head  [4]byte
	have  int // of head, or of the count of fields before the first
	inRow bool
	value int // bytes of the present value that are to come
	stars bool
}

func (m *masking) large(size int) *large { return &large{m: m, left: size} }

// pass masks the next bytes of the row's body (after the header) in place.
func (l *large) pass(b []byte) error {
	l.left -= len(b)
	for len(b) > 0 {
		if l.value > 0 {
			n := min(l.value, len(b))
			if l.stars {
				for i := range n {
					b[i] = '*'
				}
			}
			b, l.value = b[n:], l.value-n
			continue
		}
		want := 4
		if !l.inRow {
			want = 2
		}
		n := copy(l.head[l.have:want], b)
		b, l.have = b[n:], l.have+n
		if l.have < want {
			break
		}
		l.have = 0
		if err := l.begin(len(b) + l.left); err != nil {
			return err
		}
	}
	if l.left == 0 && (l.value > 0 || l.have > 0 || l.field != l.m.fields) {
		return errMalformed
	}
	return nil
}

// begin reads the count of fields, or the length of the next value; rest is what the row still holds.
func (l *large) begin(rest int) error {
	if !l.inRow {
		l.inRow = true
		if int(binary.BigEndian.Uint16(l.head[:])) != l.m.fields {
			return errMalformed
		}
		return nil
	}
	size := int(int32(binary.BigEndian.Uint32(l.head[:])))
	if size < -1 || size > rest || l.field >= l.m.fields {
		return errMalformed
	}
	l.value, l.stars = max(size, 0), false
	if l.next < len(l.m.columns) && l.m.columns[l.next].index == l.field {
		if size >= 0 {
			l.m.columns[l.next].count++
			l.stars = true
		}
		l.next++
	}
	l.field++
	return nil
}
