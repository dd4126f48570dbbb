package api

// What a body may hold, beside its bytes. An empty element takes three of them and may become hundreds once it is decoded, so that elements are
// counted before anything is made of them.
const (
	maxElements = 4096    // of all lists together but the long ones
	maxLong     = 1 << 20 // of all long lists together
	maxLongList = 1 << 16 // of one of them: PostgreSQL binds as many parameters at the most
)

// long are the lists that a command may fill: an array of any other name counts among the short ones.
var long = map[string]bool{`"params"`: true, `"touches"`: true, `"classes"`: true, `"columns"`: true, `"functions"`: true}

// Bounded refuses JSON with more elements than any call of ours has. It says nothing of JSON that is not well formed: who decodes it does.
func Bounded(b []byte) error {
	var open []list
	key, short, total := "", 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			end := stringEnd(b, i)
			if end-i <= 16 {
				key = string(b[i:end])
			} else {
				key = ""
			}
			i = end - 1
			continue // a colon may follow, and then a list
		case '[':
			open = append(open, list{long: long[key], array: true})
		case '{':
			open = append(open, list{})
		case ']', '}':
			if len(open) > 0 {
				open = open[:len(open)-1]
			}
		case ':', ' ', '\t', '\r', '\n':
			continue
		}
		if n := len(open) - 1; n >= 0 && open[n].array && (b[i] == ',' || b[i] == '[') { // as many elements as commas, and one
			if open[n].n++; open[n].long {
				total++
			} else {
				short++
			}
			if short > maxElements || total > maxLong || open[n].long && open[n].n > maxLongList {
				return Because(ErrTooLarge, "send it in parts", "the request's lists are too long").By(RuleTooLarge)
			}
		}
		key = ""
	}
	return nil
}

// list is an array or object that has not ended.
type list struct {
	array, long bool
	n           int
}

// stringEnd is behind the string that begins at i, or the end of b.
func stringEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}
