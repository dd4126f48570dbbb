package postgres

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
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

// maskedField is one column of a result that is masked, or looked into for what nobody classified.
type maskedField struct {
	index  int
	look   look
	class  string
	masker mask.Masker
	shape  mask.Shape
	binary bool
	count  int64
}

// look says how a column is looked into. The zero look masks the whole of it.
type look uint8

const (
	lookNot    look = iota
	lookText        // what is found is masked in its place
	lookNumber      // digits, of which something is found or not: then the whole is masked
	lookOpaque      // bytes of a form of their own: where something is found, the whole becomes NULL
)

// masking says what happens to the rows of one result. The zero masking lets everything pass.
type masking struct {
	fields  int
	columns []maskedField // by index
	grow    int           // the most bytes by which a row can become longer, but for what detectors find
	finder  *mask.Finder  // of columns that are looked into
	found   map[string]int64
	tmp     []byte
}

// classifier names the class of a field: the catalogue.
type classifier interface {
	class(o origin) (class, masker string, known bool)
}

// rule is what a command's permit makes of classes.
type rule struct {
	declared []access.ClassUse // that facts named: policy was asked about no other
	masks    func(class string) bool
	classes  []access.Class // those that have a detector count here
	made     *maskers
}

// hides says whether values of a class must not show: a class is let through only where the command's facts had named it, so that
// policy was asked about it, and the permit does not oblige to mask it.
func (r *rule) hides(class string) bool {
	return !slices.ContainsFunc(r.declared, func(u access.ClassUse) bool { return u.Class == class }) || r.masks(class)
}

// maskingOf resolves a result's fields to what must be masked. A field that the catalogue does not know is an error: nothing of the
// result may pass.
func maskingOf(fields []field, cat classifier, r rule) (*masking, error) {
	m := &masking{fields: len(fields)}
	var hidden []access.Class
	for _, c := range r.classes {
		if c.Detector != "" && r.hides(c.Name) {
			hidden = append(hidden, c)
		}
	}
	if m.finder = r.made.finder(hidden); m.finder != nil {
		m.found = map[string]int64{}
	}
	for i, f := range fields {
		class, name := "", ""
		if f.origin.table != 0 { // an expression otherwise: facts has denied those over a masked column
			var known bool
			if class, name, known = cat.class(f.origin); !known {
				return nil, fmt.Errorf("field %d comes from table %d column %d, which is not in the catalogue snapshot", i+1, f.origin.table, f.origin.column)
			}
		}
		col := maskedField{index: i, class: class, shape: maskShape(f), binary: f.format != textFormat}
		switch {
		case class != "" && r.hides(class):
			col.masker = r.made.mask(name)
			m.grow += mask.Growth + mask.Longest
		case m.finder != nil && lookOf(f) != lookNot:
			col.look = lookOf(f)
		default:
			continue
		}
		m.columns = append(m.columns, col)
	}
	return m, nil
}

// untold names a column that a command gives out as it is, and has to be masked, and that the target's description has nowhere: a field's
// origin is the target's word, and one that hides it must not pass for an expression.
func untold(fields []field, cat *catalogue, r *running) string {
	if !r.alone || r.beneath || r.plan || cat == nil {
		return ""
	}
	for _, u := range r.classes {
		if u.Derived || u.On == "result" || !r.permit.Masks(u.Class) {
			continue
		}
		if !slices.ContainsFunc(fields, func(f field) bool {
			rel := cat.byOID[f.origin.table]
			if rel == nil {
				return false
			}
			c := rel.columnNum(f.origin.column)
			return c != nil && rel.display()+"."+plainPart(c.name) == u.On
		}) {
			return u.On
		}
	}
	return ""
}

// lookOf says how values of a type are looked into. Of dates, floats, booleans and the like nothing can be found; of bytea nothing is
// sought, because it is no text.
func lookOf(f field) look {
	switch f.typ {
	case 19, 25, 1042, 1043, 114, 3802, 142: // name, text, bpchar, varchar, json, jsonb, xml
		return lookText
	case 20:
		return lookNumber
	case 1700:
		if f.format == textFormat {
			return lookNumber
		}
	case 199, 1002, 1003, 1009, 1014, 1015, 3807: // arrays of those
		if f.format == textFormat {
			return lookText
		}
		return lookOpaque
	case 2249, 2287: // records
		if f.format == textFormat {
			return lookText
		}
		return lookOpaque
	}
	switch {
	case f.typ < firstOwnType:
		return lookNot
	case f.format == textFormat:
		return lookText
	}
	return lookOpaque
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
			if size >= 0 && (c.look == lookNot || m.finds(c, msg[pos+4:pos+4+size])) {
				dst = append(dst, msg[from:pos]...)
				dst = m.appendField(dst, c, msg[pos+4:pos+4+size])
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

// finds looks into a value, and leaves in tmp what may be shown of it where something was found.
func (m *masking) finds(c *maskedField, v []byte) bool {
	if len(v) < mask.Shortest {
		return false
	}
	if c.look == lookNumber && c.binary {
		if len(v) != 8 {
			return false
		}
		var room [20]byte
		v = strconv.AppendInt(room[:0], int64(binary.BigEndian.Uint64(v)), 10)
	}
	out, found := m.finder.Append(m.tmp[:0], v, m.found)
	m.tmp = out
	return found
}

func (m *masking) appendField(dst []byte, c *maskedField, v []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	var out []byte
	var null bool
	switch c.look {
	case lookNot:
		c.count++
		out, null = c.masker.AppendAs(dst, v, c.shape, c.binary)
	case lookText:
		out = append(dst, m.tmp...)
	case lookNumber:
		out, null = mask.Masker{}.AppendAs(dst, v, c.shape, c.binary)
	default:
		out, null = dst, true
	}
	if null {
		binary.BigEndian.PutUint32(out[at:], ^uint32(0))
		return out
	}
	binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	return out
}

// counted adds what was masked to counts, and starts anew.
func (m *masking) counted(counts map[string]int64) map[string]int64 {
	add := func(class string, n int64) {
		if n == 0 {
			return
		}
		if counts == nil {
			counts = make(map[string]int64, len(m.columns))
		}
		counts[class] += n
	}
	for i := range m.columns {
		add(m.columns[i].class, m.columns[i].count)
		m.columns[i].count = 0
	}
	for class, n := range m.found {
		add(class, n)
	}
	clear(m.found)
	return counts
}

// large masks a row that is too long to be kept: as its bytes pass, each masked value, and what is found in one that is looked into, is
// replaced by as many stars, since the length of the whole row has already left. It belongs to one row.
type large struct {
	m     *masking
	emit  func([]byte) error
	err   error       // of emit
	fixed *mask.Fixed // of the present value, where it is looked into
	left  int         // bytes of the row that are to come
	field int
	next  int
	head  [4]byte
	have  int // of head, or of the count of fields before the first
	inRow bool
	value int // bytes of the present value that are to come
	stars bool
}

// large passes what may be shown to emit, which must not keep it.
func (m *masking) large(size int, emit func([]byte) error) *large {
	return &large{m: m, left: size, emit: emit}
}

func (l *large) put(b []byte) {
	if l.err == nil && len(b) > 0 {
		l.err = l.emit(b)
	}
}

// pass takes the next bytes of the row's body (after the header), which it may change.
func (l *large) pass(b []byte) error {
	l.left -= len(b)
	for len(b) > 0 && l.err == nil {
		if l.value > 0 {
			n := min(l.value, len(b))
			l.value -= n
			l.piece(b[:n])
			b = b[n:]
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
		l.put(l.head[:want])
		l.have = 0
		if err := l.begin(len(b) + l.left); err != nil {
			return err
		}
	}
	if l.left == 0 && (l.value > 0 || l.have > 0 || l.field != l.m.fields) {
		return errMalformed
	}
	return l.err
}

// piece passes bytes of the present value.
func (l *large) piece(b []byte) {
	switch {
	case l.fixed != nil:
		l.fixed.Write(b)
		if l.value == 0 {
			l.fixed.End()
			l.fixed.Counts(l.m.found)
			l.fixed = nil
		}
		return
	case l.stars:
		for i := range b {
			b[i] = '*'
		}
	}
	l.put(b)
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
		c := &l.m.columns[l.next]
		switch {
		case size < 0:
		case c.look == lookNot:
			c.count++
			l.stars = true
		case size >= mask.Shortest:
			l.fixed = l.m.finder.Fixed(l.put)
		}
		l.next++
	}
	l.field++
	return nil
}
