package approve_test

import (
	"html"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/sallyport/sallyport/functions/approve"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"select 1\n\tfrom x": "select 1\n\tfrom x", "grün 表": "grün 表", "": "", "a\u202eb": "a⟨U+202E⟩b", "\u2066x\u2069": "⟨U+2066⟩x⟨U+2069⟩", "\u200b": "⟨U+200B⟩",
		"\ufeff": "⟨U+FEFF⟩", "\x00\x1b[2K\r": "⟨U+0000⟩⟨U+001B⟩[2K⟨U+000D⟩", "\u3164": "⟨U+3164⟩", "\u00a0": "⟨U+00A0⟩", "\u2800": "⟨U+2800⟩", "=\u0338": "=⟨U+0338⟩",
		"\xff\xfe": "⟨byte FF⟩⟨byte FE⟩", "\ufffd": "⟨U+FFFD⟩", "\U000e0041": "⟨U+E0041⟩", "\u2028": "⟨U+2028⟩", "\x7f": "⟨U+007F⟩", "\u00ad": "⟨U+00AD⟩",
	} {
		if got := approve.Visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := approve.Glance(strings.Repeat("ü", 300)); got != strings.Repeat("ü", 240)+" …" {
		t.Errorf("%q", got)
	}
	if got := approve.Glance("short\u202e"); got != "short⟨U+202E⟩" {
		t.Errorf("%q", got)
	}
}

func TestExact(t *testing.T) {
	for in, want := range map[string]string{
		"a < b && \"c\"": `a &lt; b &amp;&amp; &#34;c&#34;`,
		"a\n\nb":         "<span class=\"ln\">a\n</span><span class=\"ln\">\n</span><span class=\"ln\">b</span>",
		"a\n":            "a\n",
		"а=a":            `<span class="foreign">а</span>=a`,
		"<\u202e>":       `&lt;<mark class="code">U+202E</mark>&gt;`,
		"\xff":           `<mark class="code">byte FF</mark>`,
		"":               "",
	} {
		if got := approve.Exact(in); string(got.HTML) != want || got.Hidden != strings.Contains(want, "<mark") || got.Foreign != strings.Contains(want, "foreign") || got.Bytes != len(in) {
			t.Errorf("%q: %+v, want %q", in, got, want)
		}
	}
	if got := approve.Exact(strings.Repeat("\n", 3000)); strings.Contains(string(got.HTML), "span") || got.Lines != 3000 {
		t.Errorf("%d lines", got.Lines)
	}
}

// FuzzExact: nothing hidden comes through, nothing but our three tags is markup, and every byte is accounted for.
func FuzzExact(f *testing.F) {
	for _, s := range []string{"select 1", "a\u202eb\n<script>", "\xff\x00", "\u3164<mark>U+202E</mark>"} {
		f.Add(s)
	}
	tags := regexp.MustCompile(`</?(?:mark|span)(?: class="(?:ln|code|foreign)")?>`)
	f.Fuzz(func(t *testing.T, s string) {
		st := approve.Exact(s)
		bare := tags.ReplaceAllString(string(st.HTML), "")
		if strings.ContainsAny(bare, "<>") {
			t.Fatalf("%q becomes markup: %q", s, st.HTML)
		}
		for _, r := range html.UnescapeString(bare) {
			if r != '\n' && r != '\t' && (!unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r)) {
				t.Fatalf("%q lets %U through", s, r)
			}
		}
		if !st.Hidden && html.UnescapeString(bare) != s {
			t.Fatalf("%q is shown as %q", s, html.UnescapeString(bare))
		}
	})
}
