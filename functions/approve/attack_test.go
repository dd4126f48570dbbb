package approve_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
)

// EXECUTE names what runs; the reviewer reads it.
func TestAReviewerReadsWhatIsRunByAName(t *testing.T) {
	w := newWorld(t)
	rec := w.hold(w.alice, func(r *approval.Record) {
		r.Text, r.State.Prepared = "execute harmless", "delete from orders\n-- \u202e<b>"
	})
	_, p := w.reviewing("rita", rec.ID)
	for _, want := range []string{"execute harmless", "delete from orders", "What it runs by a name", "characters that show nothing"} {
		if !p.says(want) {
			t.Errorf("no %q in %s", want, p.text())
		}
	}
	if strings.ContainsRune(p.body, '\u202e') || strings.Contains(p.body, "<b>--") {
		t.Error(p.body)
	}
}

// The text that runs where protected data must stay masked is part of what a reviewer approves.
func TestAReviewerReadsTheTextThatMasks(t *testing.T) {
	w := newWorld(t)
	rec := w.hold(w.alice, func(r *approval.Record) {
		r.Text, r.Masked = "select upper(email) from customers", "select upper(email) from (SELECT '****' AS email\u202e<b> FROM customers) c"
	})
	_, p := w.reviewing("rita", rec.ID)
	for _, want := range []string{"select upper(email) from customers", "must stay masked", "(SELECT '****' AS email"} {
		if !p.says(want) {
			t.Errorf("no %q in %s", want, p.text())
		}
	}
	if strings.ContainsRune(p.body, '\u202e') || strings.Contains(p.body, "<b> FROM") {
		t.Error(p.body)
	}
}

// An agent that gives two commands of a session one id hides neither from who reads the session.
func TestACommandIsNotHiddenBehindTheIDOfAnother(t *testing.T) {
	w := newWorld(t)
	s := w.Seed(w.agent, w.alice, "app")
	first := s.Command(0, access.Read, "public.orders", "select 'harmless'")
	second := s.Command(1, access.Write, "public.orders", "delete from orders")
	second.ID = first.ID
	prev := s.Prev
	for _, c := range []access.Command{first, second} {
		kept, err := audit.CommandOf(c, s.Digest(c), s.State.DataKey)
		brokertest.Must(t, err)
		w.audit(audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Time: w.Now(), Agent: s.Agent.Name, Session: c.Session, Seq: c.Seq, Prev: prev, Target: "app",
			Lineage: &s.State.Lineage, Command: kept, Decision: &access.Decision{Command: c.ID, Seq: c.Seq, Outcome: access.Allow}})
		prev = audit.Link(prev, c.ID, c.Seq, s.Digest(c))
	}
	p := w.as("alice").get("/sessions/" + string(s.State.Session))
	if p.status != http.StatusOK || !p.says("harmless") || !p.says("delete from orders") {
		t.Errorf("%d: %s", p.status, p.text())
	}
}
