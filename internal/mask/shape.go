package mask

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
)

// Shape says what a client expects to parse where a value was, so that a masked column of a type that is not text still parses.
type Shape uint8

// Shapes, with the constants that most masks become in text. In binary they are the same values. The zero Shape becomes NULL:
// nothing is known that would parse.
const (
	Nothing   Shape = iota
	Text            // any string: the masker's own form
	Small           // 0, two bytes
	Integer         // 0, four bytes
	Big             // 0, eight bytes
	Float           // 0, four bytes
	Double          // 0, eight bytes
	Numeric         // 0
	Boolean         // f
	Bytes           // \x
	JSON            // "****"
	JSONB           // "****"; in binary with its version before
	UUID            // all zeros
	DateOnly        // 1970-01-01
	Time            // 00:00:00
	Timestamp       // 1970-01-01 00:00:00
	Zoned           // 1970-01-01 00:00:00+00
	shapeCount
)

var texts = [shapeCount]string{
	Small: "0", Integer: "0", Big: "0", Float: "0", Double: "0", Numeric: "0", Boolean: "f", Bytes: `\x`, JSON: `"` + Hidden + `"`,
	JSONB: `"` + Hidden + `"`, UUID: "00000000-0000-0000-0000-000000000000",
	DateOnly: "1970-01-01", Time: "00:00:00", Timestamp: "1970-01-01 00:00:00", Zoned: "1970-01-01 00:00:00+00",
}

// binaries are the same values as PostgreSQL sends them: dates count days from 2000, times microseconds.
var binaries = [shapeCount]string{
	Small: "\x00\x00", Integer: "\x00\x00\x00\x00", Big: "\x00\x00\x00\x00\x00\x00\x00\x00", Float: "\x00\x00\x00\x00",
	Double: "\x00\x00\x00\x00\x00\x00\x00\x00", Numeric: "\x00\x00\x00\x00\x00\x00\x00\x00", Boolean: "\x00", Bytes: "",
	JSON: `"` + Hidden + `"`, JSONB: "\x01" + `"` + Hidden + `"`, UUID: "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	DateOnly: "\xff\xff\xd5\x33", Time: "\x00\x00\x00\x00\x00\x00\x00\x00",
	Timestamp: "\xff\xfc\xa2\xfe\xc4\xc8\x20\x00", Zoned: "\xff\xfc\xa2\xfe\xc4\xc8\x20\x00",
}

// Longest is the longest constant that a Shape other than Text becomes.
const Longest = 36

// AppendAs appends the masked form of v in a shape, as text or as PostgreSQL's binary form; null says that the value must become NULL,
// and then dst is unchanged. A hash of a number is a number, of a UUID a UUID; a date that is cut stays a date.
func (m Masker) AppendAs(dst, v []byte, s Shape, inBinary bool) (out []byte, null bool) {
	switch {
	case m.kind == kindNull, s == Nothing, s >= shapeCount:
		return dst, true
	case s == Text:
		return m.Append(dst, v), false
	case m.prf != nil && m.kind == kindHash:
		if out, ok := m.appendNumber(dst, v, s, inBinary); ok {
			return out, false
		}
	case m.kind == kindDate && (s == DateOnly || s == Timestamp || s == Zoned):
		if inBinary {
			return m.appendBinaryDate(dst, v, s), false
		}
		out = m.appendDate(dst, v)
		if string(out[len(dst):]) != Hidden {
			return out, false
		}
	}
	if inBinary {
		return append(dst, binaries[s]...), false
	}
	return append(dst, texts[s]...), false
}

// appendNumber appends the hash of v as a number that is not negative, or as a UUID: the same whichever way v came.
func (m Masker) appendNumber(dst, v []byte, s Shape, inBinary bool) ([]byte, bool) {
	var room [40]byte
	if inBinary {
		v = appendAsText(room[:0], v, s)
	}
	high, low := m.number(v)
	switch {
	case s == UUID && inBinary:
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, high), low), true
	case s == UUID:
		var raw [16]byte
		binary.BigEndian.PutUint64(raw[:], high)
		binary.BigEndian.PutUint64(raw[8:], low)
		return appendUUID(dst, raw[:]), true
	case s == Small && inBinary:
		return binary.BigEndian.AppendUint16(dst, uint16(high>>49)), true
	case s == Integer && inBinary:
		return binary.BigEndian.AppendUint32(dst, uint32(high>>33)), true
	case s == Big && inBinary:
		return binary.BigEndian.AppendUint64(dst, high>>1), true
	case s == Small:
		return strconv.AppendUint(dst, high>>49, 10), true
	case s == Integer:
		return strconv.AppendUint(dst, high>>33, 10), true
	case s == Big, s == Numeric && !inBinary:
		return strconv.AppendUint(dst, high>>1, 10), true
	}
	return dst, false
}

// appendAsText appends what the server would send as text for a binary value; one of another length stays as it is.
func appendAsText(dst, v []byte, s Shape) []byte {
	switch {
	case s == Small && len(v) == 2:
		return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(v))), 10)
	case s == Integer && len(v) == 4:
		return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(v))), 10)
	case s == Big && len(v) == 8:
		return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(v)), 10)
	case s == UUID && len(v) == 16:
		return appendUUID(dst, v)
	}
	return append(dst, v...)
}

func appendUUID(dst, raw []byte) []byte {
	from := 0
	for _, to := range [...]int{4, 6, 8, 10, 16} {
		if from > 0 {
			dst = append(dst, '-')
		}
		dst, from = hex.AppendEncode(dst, raw[from:to]), to
	}
	return dst
}
