package main

import (
	"strings"
	"testing"
)

func TestRefuses(t *testing.T) {
	for _, args := range [][]string{{"-calls", "9"}, {"-starts", "0"}, {"-agents", "0"}, {"more"}, {"-endpoint", "nowhere"}, {"-nosuch"}} {
		var out strings.Builder
		if err := run(t.Context(), args, func(string) string { return "" }, &out); err == nil || strings.Contains(out.String(), "|") {
			t.Errorf("%q: %v\n%s", args, err, out.String())
		}
	}
}

// Without credentials nothing is made, and nothing is asked for.
func TestAnAccountNeedsCredentials(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-endpoint", "aws"}, func(string) string { return "" }, &out); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Fatalf("%v", err)
	}
}
