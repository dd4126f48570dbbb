package mask_test

import (
	"bytes"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// all is one class for each detector, masked by its name in brackets so that tests see what was found.
func all() []access.Class {
	var classes []access.Class
	for _, d := range mask.Detectors {
		m := mask.Full
		switch d {
		case mask.DetectMail:
			m = mask.Email
		case mask.DetectCard:
			m = mask.Card
		}
		classes = append(classes, access.Class{Name: d, Detector: d, Mask: m})
	}
	return classes
}

const (
	aws    = "AKIA" + "IOSFODNN7EXAMPLE"
	github = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
	jwt    = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
	pem    = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nProc-Type: 4,ENCRYPTED\n\nabc/+==\n-----END RSA PRIVATE KEY-----"
)

// detected is text and what it becomes; an empty want says that nothing is in it.
var detected = []struct{ name, in, want string }{
	{"mail", "write to alice@example.com.", "write to a***@***.com."},
	{"mail in brackets", "Alice <alice.b-c+d@mail.example.co.uk>,x", "Alice <a***@***.uk>,x"},
	{"mails", "a@b.de,c@d.fr", "a***@***.de,c***@***.fr"},
	{"mail at the end of a value", `{"m":"alice@example.com"}`, `{"m":"a***@***.com"}`},
	{"mail behind an escape of JSON", `x\nAKIA`, ""},
	{"mail of another alphabet", "älice@exämple.com", "****"},
	{"mail in a file name", "alice@example.com_2024.csv", "a***@***.com_2024.csv"},
	{"mail before a dash", "alice@example.com-old", "a***@***.com-old"},
	{"mail before a number", "alice@example.com.1", "a***@***.com.1"},
	{"mail with a trailing dot", "alice@example.com. Next", "a***@***.com. Next"},
	{"mail quoted", "'alice@example.com'", "'a***@***.com'"},
	{"mail with an apostrophe", "o'brien@example.com", "o***@***.com"},
	{"mail in colour", "\x1b[01;31m\x1b[Kalice@example.com\x1b[m\x1b[K", "\x1b[01;31m\x1b[Ka***@***.com\x1b[m\x1b[K"},
	{"no mail: a host", "root@web-1", ""},
	{"no mail: a version", "lodash@4.17.21 @types/node@18.0.0", ""},
	{"no mail: git", "git@github.com:org/repo.git", ""},
	{"no mail: a unit", "getty@tty1.service user@1000.slice", ""},
	{"no mail: nobody", " @example.com", ""},
	{"no mail: a decorator", "@app.route", ""},
	{"no mail: one letter", "a@b.c", ""},

	{"card", "card 4242424242424242.", "card ************4242."},
	{"card in fours", "4242 4242 4242 4242 12/30 123", "************4242 12/30 123"},
	{"card with dashes", "x:5555-5555-5555-4444", "x:************4444"},
	{"card of 15", "3782 822463 10005", "************0005"},
	{"card of 14", "3056 930902 5904", "************5904"},
	{"card of 13", "4222222222222", "************2222"},
	{"card of 19", "6304900017740292441 6011 0009 9013 9425 006", "************2441 ************5006"},
	{"cards", "4242424242424242,5555555555554444", "************4242,************4444"},
	{"card behind an escape of JSON", `pan:\n4242424242424242\n`, `pan:\n************4242\n`},
	{"card in colour", "\x1b[1m4242424242424242\x1b[0m", "\x1b[1m************4242\x1b[0m"},
	{"no card: check digit", "4242424242424241", ""},
	{"no card: nanoseconds", "1700000000000000000", ""},
	{"no card: a longer number", "42424242424242424242424", ""},
	{"no card: in a word", "x4242424242424242 4242424242424242x _4242424242424242", ""},
	{"no card: in a UUID", "a-4242424242424242-b", ""},
	{"no card: a fraction", "0.4242424242424242 4242424242424242.5", ""},
	{"no card: mixed separators", "4242-4242 4242-4242", ""},
	{"no card: two blanks", "4242  4242  4242  4242", ""},

	{"iban", "GB29NWBK60161331926819", "****"},
	{"iban in fours", "IBAN: DE89 3704 0044 0532 0130 00.", "IBAN: ****."},
	{"iban with letters", "MT84MALT011000012345MTLCAST001S,", "****,"},
	{"no iban: check digits", "DE88 3704 0044 0532 0130 00", ""},
	{"no iban: too long", "GB29NWBK601613319268191", ""},
	{"no iban: other groups", "DE893 704 0044 0532 0130 00", ""},
	{"no iban: no country", "XX29NWBK60161331926819", ""},

	{"ssn", "ssn=123-45-6789;", "ssn=****;"},
	{"no ssn: never given out", "000-45-6789 666-45-6789 900-45-6789 123-00-6789 123-45-0000", ""},
	{"no ssn: longer", "123-45-67890 123-45-6789-1 0123-45-6789", ""},

	{"phone", "call +49 89 1234567 now", "call **** now"},
	{"phone with an inner zero", "+49 (0)89 1234-567", "****"},
	{"phone plain", "+14155550100", "****"},
	{"phone american", "(415) 555-0100, 415-555-0100, 415.555.0100, 1-415-555-0100, 1 (415) 555-0100", "****, ****, ****, ****, ****"},
	{"no phone: an offset", "2024-01-15T10:00:00+0100", ""},
	{"no phone: a sum", "1+1234567890 ++1234567890", ""},
	{"no phone: dates and addresses", "2024-01-15 10:11:12.123456 192.168.100.200 10.0.0.1:8080", ""},
	{"no phone: a table", "415 555 0100", ""},
	{"no phone: exchange", "415-155-0100 115-555-0100", ""},

	{"aws key", "id: " + aws + "\n", "id: ****\n"},
	{"aws key behind an escape of JSON", `"\n` + aws + `\n"`, `"\n****\n"`},
	{"aws secret", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n", "aws_secret_access_key = ****\n"},
	{"aws secret in JSON", `"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"`, `"SecretAccessKey": "****"`},
	{"github", "token=" + github, "token=****"},
	{"github in an url", "https://x:" + github + "@github.com/a/b", "https://x:****@github.com/a/b"},
	{"jwt", jwt, "****"},
	{"bearer", "Authorization: Bearer abcdefghij0123456789", "Authorization: Bearer ****"},
	{"basic", "Authorization: Basic YWxpY2U6c2VjcmV0", "Authorization: Basic ****"},
	{"private key", pem + "\nmore", "-----BEGIN RSA PRIVATE KEY-----****\nmore"},
	{"private key in JSON", `{"key":"` + strings.ReplaceAll(pem, "\n", `\n`) + `\n"}`, `{"key":"-----BEGIN RSA PRIVATE KEY-----****\n"}`},
	{"private key cut off", pem[:60] + " no more!", "-----BEGIN RSA PRIVATE KEY-----****!"},
	{"slack", "xoxb-" + "123456789012-abcdefghijklmnop ", "**** "},
	{"password", "postgres://app:hunter2@db:5432/app", "postgres://app:****@db:5432/app"},
	{"long token", "github_pat_" + strings.Repeat("a1", 2000) + " x", "**** x"},
	{"long jwt", jwt + strings.Repeat("x", 3000) + ";", "****;"},
	{"no secret: a word", "bearer certificates-and-such, basic understanding, sk-learn, eyJust.a.word", ""},
	{"no secret: too short", "AKIA1234 ghp_short hf_x npm_config glpat-x", ""},
	{"no secret: a public key", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----", ""},
	{"no secret: an url", "https://example.com:8080/a@b http://a/b", ""},
	{"no secret: lower case", strings.ToLower(aws), ""},
	{"nothing", "", ""},
}

func TestDetect(t *testing.T) {
	for _, tt := range detected {
		want := tt.want
		if want == "" {
			want = tt.in
		}
		got, counts := mask.Detect(all(), []byte(tt.in))
		if string(got) != want {
			t.Errorf("%s: %q became %q, want %q", tt.name, tt.in, got, want)
		}
		if (counts == nil) != (want == tt.in) {
			t.Errorf("%s: counts %v", tt.name, counts)
		}
	}
}

// Within text of any kind each is found all the same, and in as many places as it is there.
func TestDetectAnywhere(t *testing.T) {
	for _, tt := range detected {
		if tt.want == "" {
			continue
		}
		for n := range 17 {
			pad := strings.Repeat(".", n) + " "
			if got, _ := mask.Detect(all(), []byte(pad+tt.in)); string(got) != pad+tt.want {
				t.Errorf("%s behind %d bytes: %q", tt.name, n, got)
			}
		}
	}
}

func TestOnlyWhatIsAsked(t *testing.T) {
	text := []byte("alice@example.com 4242424242424242 GB29NWBK60161331926819 123-45-6789 +14155550100 " + aws)
	for i, d := range mask.Detectors {
		_, counts := mask.Detect([]access.Class{{Name: "c", Detector: d, Mask: mask.Full}}, text)
		if !maps.Equal(counts, map[string]int64{"c": 1}) {
			t.Errorf("%s alone finds %v", d, counts)
		}
		rest := append(all()[:i:i], all()[i+1:]...)
		if _, counts = mask.Detect(rest, text); len(counts) != len(mask.Detectors)-1 {
			t.Errorf("all but %s find %v", d, counts)
		}
	}
	for _, classes := range [][]access.Class{nil, {{Name: "x", Columns: []string{"a.b.c"}, Mask: mask.Full}}, {{Name: "x", Detector: "rot13", Mask: mask.Full}}} {
		if got, counts := mask.Detect(classes, text); counts != nil || !bytes.Equal(got, text) {
			t.Errorf("%v find %v", classes, counts)
		}
	}
	two := []access.Class{{Name: "a", Detector: mask.DetectSSN, Mask: mask.Last4}, {Name: "b", Detector: mask.DetectSSN, Mask: mask.Full}}
	if got, counts := mask.Detect(two, []byte("123-45-6789")); string(got) != "****6789" || counts["a"] != 1 {
		t.Errorf("of two classes the first counts: %q %v", got, counts)
	}
	if got, _ := mask.Detect([]access.Class{{Name: "a", Detector: mask.DetectSSN, Mask: mask.Hash}}, []byte("123-45-6789")); string(got) != mask.Hidden {
		t.Errorf("a masker without its key shows %q", got)
	}
}

// sink keeps what a stream shows, also what it shows late.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.b.Write(p) }
func (s *sink) String() string              { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }
func (s *sink) Reset()                      { s.mu.Lock(); defer s.mu.Unlock(); s.b.Reset() }
func (s *sink) Len() int                    { s.mu.Lock(); defer s.mu.Unlock(); return s.b.Len() }

// cut streams text in pieces of the lengths given, again and again.
func cut(t testing.TB, f *mask.Finder, text []byte, lengths []byte) (string, map[string]int64) {
	t.Helper()
	var out sink
	s := f.Stream(&out)
	for i := 0; len(text) > 0; i++ {
		n := len(text)
		if len(lengths) > 0 {
			n = min(n, int(lengths[i%len(lengths)])%67)
		}
		if _, err := s.Write(text[:n]); err != nil {
			t.Fatal(err)
		}
		if text = text[n:]; n == 0 && i > 10*len(lengths) {
			lengths = nil
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String(), s.Counts()
}

var _ io.WriteCloser = (*mask.Stream)(nil)
