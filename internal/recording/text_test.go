package recording

import (
	"fmt"
	"strings"
	"testing"
)

// A recorded `yes` has millions of lines, of which the page shows the newest: each costs its own length and nothing more.
func TestTextOfMillionsOfLines(t *testing.T) {
	var x Text
	for i := range maxTextLines + 500 {
		x.Write(fmt.Sprintf("line %d\n", i))
	}
	lines := strings.Split(x.String(), "\n")
	if len(lines) != maxTextLines+1 || lines[0] != "line 500" || lines[maxTextLines-1] != fmt.Sprintf("line %d", maxTextLines+499) || lines[maxTextLines] != "" || !x.Cut() {
		t.Errorf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-2])
	}
	wide := strings.Repeat("\x1b[999Gx\ny\n", 1000)
	x.Write(wide)
	if n := testing.AllocsPerRun(10, func() { x.Write(wide) }); n > 6000 { // five for the digits of each sequence, none for lines
		t.Errorf("%.0f allocations for 2000 lines", n)
	}
	if n := testing.AllocsPerRun(10, func() { x.Write(strings.Repeat("y\n", 1000)) }); n > 1 {
		t.Errorf("%.0f allocations for 1000 lines", n)
	}
	if got := x.String(); !strings.HasSuffix(got, "\ny\ny\n") {
		t.Errorf("%q", got[len(got)-20:])
	}
}
