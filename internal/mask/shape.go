package mask

// Shape says what a client expects to parse where a value was, so that a masked column of a type that is not text still parses.
type Shape uint8

// Shapes. The zero Shape becomes NULL: nothing is known that would parse.
const (
	Null      Shape = iota
	Text            // any string: the masker's own form
	Integer         // 0
	Boolean         // f
	Bytes           // \x
	JSON            // "****"
	UUID            // all zeros
	Date            // 1970-01-01
	Time            // 00:00:00
	Timestamp       // 1970-01-01 00:00:00
	Zoned           // 1970-01-01 00:00:00+00
)

var shown = [...]string{
	Integer: "0", Boolean: "f", Bytes: `\x`, JSON: `"` + Hidden + `"`, UUID: "00000000-0000-0000-0000-000000000000",
	Date: "1970-01-01", Time: "00:00:00", Timestamp: "1970-01-01 00:00:00", Zoned: "1970-01-01 00:00:00+00",
}

// Longest is the longest constant that a Shape other than Text becomes.
const Longest = 36

// AppendAs appends the masked form of v in a shape; null says that the value must become NULL, and then dst is unchanged.
func (m Masker) AppendAs(dst, v []byte, s Shape) (out []byte, null bool) {
	switch {
	case s == Text:
		return m.Append(dst, v), false
	case s == Null, int(s) >= len(shown):
		return dst, true
	}
	return append(dst, shown[s]...), false
}
