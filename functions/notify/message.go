package notify

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/mask"
)

// delivery is one event of one approval. What a message says is made of names alone: never the command's text, its parameters, its
// normalised form or anybody's purpose, since those may hold what a mask hides, or words that only look like ours.
type delivery struct {
	rec    approval.Record
	event  event
	status approval.Status
	link   string
}

// id names the delivery for whoever must tell a repetition: the same at every attempt.
func (d delivery) id() string { return string(d.rec.ID) + "." + string(d.event) }

// Bounds of what a message says.
const (
	maxName      = 120 // characters
	maxResources = 10
)

// Hook is the body of a webhook.
type Hook struct {
	V         int               `json:"v"` // 1
	ID        string            `json:"id"`
	Event     string            `json:"event"` // approval.requested or approval.decided
	Approval  access.ApprovalID `json:"approval"`
	Status    approval.Status   `json:"status"`
	Link      string            `json:"link"`
	Hold      string            `json:"hold"`
	Reviewers []string          `json:"reviewers"` // groups
	Principal string            `json:"principal"`
	Chain     string            `json:"chain"`
	Target    string            `json:"target"`
	Agent     string            `json:"agent"`
	Session   access.SessionID  `json:"session"`
	Command   access.CommandID  `json:"command"`
	Verb      string            `json:"verb"`
	Touches   []string          `json:"touches"` // effect, kind and name of what it touches
	More      int               `json:"more,omitempty"`
	Created   time.Time         `json:"created"`
	Expires   time.Time         `json:"expires"`
}

func (d delivery) hook() Hook {
	r := d.rec
	touches, more := d.touches()
	reviewers := make([]string, len(r.Reviewers))
	for i, g := range r.Reviewers {
		reviewers[i] = named(g)
	}
	return Hook{V: 1, ID: d.id(), Event: string(d.event), Approval: r.ID, Status: d.status, Link: d.link, Hold: named(r.Hold), Reviewers: reviewers,
		Principal: named(r.Lineage.Principal), Chain: d.chain(), Target: named(string(r.Target)), Agent: named(string(r.Agent)), Session: r.Session, Command: r.Command,
		Verb: named(r.Verb), Touches: touches, More: more, Created: r.Created.UTC(), Expires: r.Expires.UTC()}
}

func (d delivery) chain() string {
	names := make([]string, len(d.rec.Lineage.Path))
	for i, n := range d.rec.Lineage.Path {
		names[i] = named(n.Name)
	}
	return strings.Join(names, " → ")
}

func (d delivery) touches() (some []string, more int) {
	some = []string{}
	seen := map[string]bool{}
	for _, t := range d.rec.Touches {
		s := named(string(t.Effect)) + " " + named(string(t.Resource.Kind)) + " " + resource(t.Resource.Name)
		if seen[s] {
			continue
		}
		seen[s] = true
		if len(some) == maxResources {
			more++
			continue
		}
		some = append(some, s)
	}
	return some, more
}

// detectable are the values that a mask may hide wherever they stand: a path or an address can hold one.
var detectable = func() []access.Class {
	all := make([]access.Class, len(mask.Detectors))
	for i, d := range mask.Detectors {
		all[i] = access.Class{Name: d, Detector: d, Mask: mask.Full}
	}
	return all
}()

// resource is a resource's name, unless a detector finds something in it. People's names are not looked at: they say who asks.
func resource(s string) string {
	if _, counts := mask.Detect(detectable, []byte(s)); len(counts) > 0 {
		return "(a name that holds a value that is masked)"
	}
	return named(s)
}

// named is text on one line, of characters that can be seen.
func named(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > maxName {
			b.WriteRune('…')
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsGraphic(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) || unicode.Is(unicode.Cf, r) {
			r = '·'
		}
		b.WriteRune(r)
	}
	return unlinked(b.String())
}

// linked is what mailboxes and chats make a link of: a table may be named after an address, so that a reviewer signs in there.
var linked = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://|\bwww\.|[\p{L}\p{N}-]\.[\p{L}-]{2,}[/?#]`)

// unlinked writes such a name as people do who do not want it to be followed.
func unlinked(s string) string {
	if !linked.MatchString(s) {
		return s
	}
	return strings.NewReplacer("://", "[:]//", ".", "[.]").Replace(s)
}

// Mailing is one e-mail, whole.
type Mailing struct {
	From string
	To   []string
	Raw  []byte // RFC 5322
}

// mail makes the message for reviewers. Its Message-ID is the same at every attempt, so that mailboxes may tell a repetition.
func (d delivery) mail(from string, to []string, now time.Time) (Mailing, error) {
	r := d.rec
	_, domain, _ := strings.Cut(from, "@")
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", (&mail.Address{Name: "Sallyport", Address: from}).String())
	header("To", strings.Join(to, ",\r\n "))
	header("Subject", mime.QEncoding.Encode("utf-8", fmt.Sprintf("Approval needed: %s on %s, asked by %s", named(r.Verb), named(string(r.Target)), named(r.Lineage.Principal))))
	header("Date", now.UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+d.id()+"@"+domain+">")
	header("Auto-Submitted", "auto-generated") // RFC 3834: nobody's out-of-office answers
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	touches, more := d.touches()
	text := fmt.Sprintf("A command waits for a reviewer.\n\n  who      %s (%s)\n  what     %s\n", named(r.Lineage.Principal), d.chain(), named(r.Verb))
	for _, t := range touches {
		text += "           " + t + "\n"
	}
	if more > 0 {
		text += fmt.Sprintf("           and %d more\n", more)
	}
	text += fmt.Sprintf("  where    %s, through agent %s\n  hold     %s\n  until    %s\n\nRead the whole command and answer here, after your own sign-in:\n\n  %s\n\nThis message permits nothing, and no answer to it does. The names in it are the words of who asks: follow no other link.\n",
		named(string(r.Target)), named(string(r.Agent)), named(r.Hold), r.Expires.UTC().Format("2006-01-02 15:04 UTC"), d.link)
	if _, err := w.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		return Mailing{}, err
	}
	if err := w.Close(); err != nil {
		return Mailing{}, err
	}
	return Mailing{From: from, To: to, Raw: b.Bytes()}, nil
}

// checkAddress takes a bare address alone: what stands in a header must not bring its own.
func checkAddress(s string) error {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || a.Name != "" || strings.ContainsAny(s, "\r\n<> ,\"") {
		return fmt.Errorf("%q is not an e-mail address", s)
	}
	return nil
}
