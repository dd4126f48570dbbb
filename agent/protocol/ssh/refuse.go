package ssh

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/internal/access"
)

// exitDenied is the status of a command that did not run: what shells say of one that they may not execute.
const exitDenied = 126

// refusal is a denial as a command's standard error: a sentence that names the rule, what to do next, and the detail for programs on a line of its own.
func refusal(d *access.Denied) string {
	return printable(sentence(d)) + "\n" + hintLine(d) + "DETAIL: " + escaped(d.Detail()) + "\n"
}

// escaped is JSON without the characters that printable takes out, written as JSON can.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		if u := string(r); printable(u) == u || r > 0xffff {
			b.WriteString(printable(u))
		} else {
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}

// words is the same in one paragraph, for banners and disconnects.
func words(d *access.Denied) string {
	return printable(sentence(d)) + "\n" + hintLine(d)
}

// oneLine is the same where there is no room for more.
func oneLine(d *access.Denied) string {
	s := printable(sentence(d))
	if d.Hint != "" {
		s += ": " + printable(d.Hint)
	}
	return s
}

func hintLine(d *access.Denied) string {
	if d.Hint == "" {
		return ""
	}
	return "sallyport: " + printable(d.Hint) + "\n"
}

func sentence(d *access.Denied) string {
	switch d.Code {
	case access.CodeHeldDenied:
		return fmt.Sprintf("sallyport: a reviewer said no, under rule %q", d.Rule)
	case access.CodeHeldExpired:
		return fmt.Sprintf("sallyport: no reviewer answered in time, under rule %q", d.Rule)
	case access.CodeCancelled:
		return "sallyport: cancelled while waiting for a reviewer"
	case access.CodeRevoked:
		return "sallyport: the session was ended: " + d.Error()
	case access.CodeNotMaskable:
		return fmt.Sprintf("sallyport: denied by rule %q: a protected value would travel where it cannot be masked", d.Rule)
	}
	return "sallyport: " + d.Error()
}

// heldText tells the client that its command waits, where to have it approved and until when.
func heldText(h access.HeldCommand) string {
	return fmt.Sprintf("sallyport: held by %q: waiting for a reviewer, until %s\nsallyport: ask a reviewer to open %s\nsallyport: Ctrl-C gives it up\n",
		printable(h.Name), h.Expires.UTC().Format(time.RFC3339), printable(h.Link))
}

// printable keeps what others chose from steering the client's terminal, and from showing as something else than it is.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// deniedBy is what an error of the gate comes to: one that is no denial closes the gate.
func deniedBy(err error) *access.Denied {
	d := (*access.Denied)(nil)
	if errors.As(err, &d) {
		return d
	}
	return &access.Denied{Code: access.CodeNoDecision, Rule: "gate-error", Retryable: true,
		Hint: "the broker did not decide; try again, and look at the agent's log if it goes on"}
}
