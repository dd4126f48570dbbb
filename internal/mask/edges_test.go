package mask_test

import (
	"encoding/hex"
	"maps"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// What a detector must leave alone is as much its promise as what it finds: output in which every long number is hidden is of no use.
func TestNotDetected(t *testing.T) {
	for name, text := range map[string]string{
		"digits of no network, with a right check digit": "2000000000000006 6700000000000000001x 5912345678901234567890",
		"a number too short to be a phone's":             "+49 123 +1 22 33",
		"a number too long to be a phone's":              "+1234567890123456",
		"eight digits without a group":                   "+12345678",
		"an access key that goes on":                     aws + "7 " + aws + "x",
	} {
		if got, counts := mask.Detect(all(), []byte(text)); string(got) != text || counts != nil {
			t.Errorf("%s: %q became %q (%v)", name, text, got, counts)
		}
	}
}

// Of a value that is too long to be looked at as a whole nothing shows, also where its parts are not too long.
func TestOfLongValuesNothingShows(t *testing.T) {
	class := []access.Class{{Name: "s", Detector: mask.DetectSecret, Mask: "partial:2-3"}}
	long := "eyJ" + strings.Repeat("a1", 150) + "." + strings.Repeat("b2", 150)
	if got, _ := mask.Detect(class, []byte("x "+long+" y")); string(got) != "x **** y" {
		t.Errorf("%.80q", got)
	}
	if got, _ := mask.Detect(class, []byte(aws)); string(got) != "AK****PLE" {
		t.Errorf("%q", got)
	}
}

// A private key without an end is one only as far as any key goes.
func TestKeysAreBounded(t *testing.T) {
	const longest = 64 << 10
	got, counts := mask.Detect(all(), []byte("-----BEGIN "+"PRIVATE KEY-----"+strings.Repeat("A", longest+100)))
	if rest := strings.TrimPrefix(string(got), "-----BEGIN PRIVATE KEY-----****"); rest != strings.Repeat("A", 100) || counts[mask.DetectSecret] != 1 {
		t.Errorf("%d bytes show, want 100 (%v)", len(rest), counts)
	}
}

// What one keyed mask shows of a value tells nothing of what another shows of it, though both have one key.
func TestMasksDoNotShareTheirKey(t *testing.T) {
	h, err := mask.New(mask.Hash, key)
	if err != nil {
		t.Fatal(err)
	}
	f, err := mask.New(mask.Format, key)
	if err != nil {
		t.Fatal(err)
	}
	const v = "00000000"
	sum, err := hex.DecodeString(strings.TrimPrefix(string(h.Append(nil, []byte(v))), "h:"))
	if err != nil || len(sum) != len(v) {
		t.Fatalf("%x %v", sum, err)
	}
	guess := make([]byte, len(v))
	for i := range guess {
		guess[i] = '0' + sum[i]%10
	}
	if got := f.Append(nil, []byte(v)); string(got) == string(guess) {
		t.Errorf("the format %s is read off the hash", got)
	}
}

// Numbers that are no digits, and what cannot be printed, are part of a value: nothing of it stays.
func TestFormatLeavesSeparatorsAlone(t *testing.T) {
	f, err := mask.New(mask.Format, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"½", "²", "Ⅷ", "٤", "\x01", "\x1b"} {
		if got := string(f.Append(nil, []byte("a-"+part+"-b"))); strings.Contains(got, part) || strings.Count(got, "-") != 2 {
			t.Errorf("%q shows %q", part, got)
		}
	}
}

func TestWhatIsNearlyADateOrAnAddress(t *testing.T) {
	for spec, values := range map[string][]string{
		"date:year": {"1985-10-269", "1985-10-26x", "1985-10-26-05"},
		"email":     {"_alice@example.com", "+alice@example.com", "-@example.com"},
	} {
		m, err := mask.New(spec, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if got := string(m.Append(nil, []byte(v))); got != mask.Hidden {
				t.Errorf("%s of %q shows %q", spec, v, got)
			}
		}
	}
}

// A value whose length was promised keeps it, and one after the other is counted.
func TestFixedKeepsLengths(t *testing.T) {
	var out []byte
	f := mask.NewFinder(all(), noKey).Fixed(func(b []byte) { out = append(out, b...) })
	counts := map[string]int64{}
	for _, v := range []string{"to alice@example.com, " + aws, "nothing", pem + "!", "4242424242424242"} {
		out = out[:0]
		for i := range len(v) {
			f.Write([]byte(v[i : i+1]))
		}
		f.End()
		if len(out) != len(v) || strings.Contains(string(out), "alice") || strings.Contains(string(out), "4242") || strings.Contains(string(out), aws[:8]) {
			t.Errorf("%q became %q", v, out)
		}
	}
	f.Counts(counts)
	if want := map[string]int64{mask.DetectMail: 1, mask.DetectSecret: 2, mask.DetectCard: 1}; !maps.Equal(counts, want) {
		t.Errorf("counted %v, want %v", counts, want)
	}
}
