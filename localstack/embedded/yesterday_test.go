package embedded_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// An agent with yesterday's keys, whose certificate was not renewed in time: every function refuses it by the same rule and says what to do,
// however lately it knew the agent, and nothing is decided or stored.
func TestYesterdaysKeys(t *testing.T) {
	agents := []string{"enroll renewal", "decide open", "decide allow", "decide large command", "decide close", "changes", "record outcome", "record chunk"}
	p := newPlace(t)
	var begun []func(*place) *http.Request
	for _, a := range asked {
		if slices.Contains(agents, a.name) {
			begun = append(begun, a.make)
		}
	}
	if len(begun) != len(agents) {
		t.Fatalf("%d of %d calls", len(begun), len(agents))
	}
	if got := p.heard(p.agent.Request(api.PathChanges, api.ChangesRequest{Agent: p.agent.Name})); got != "ok" {
		t.Fatalf("today: %s", got)
	}
	p.Advance(token.CertificateLife)
	p.alice = p.Login("alice", "engineers")
	p.session = p.Seed(p.agent, p.alice, "app")
	before := len(p.Entries())
	for i, ask := range begun {
		got := p.heard(ask(p))
		if !strings.HasPrefix(got, "login_needed, agent-expired: make a new join token (sallyport agent enroll NAME)") {
			t.Errorf("%s: %s", agents[i], got)
		}
	}
	if n := len(p.Entries()); n != before {
		t.Errorf("%d entries were stored", n-before)
	}
	p.agent = p.Agent(p.agent.Name, "app") // enrolled anew
	p.session = p.Seed(p.agent, p.alice, "app")
	for i, ask := range begun {
		switch agents[i] {
		case "record outcome", "record chunk", "decide large command": // of a session that has ended; of a command whose place is taken
			continue
		}
		if got := p.heard(ask(p)); got != "ok" {
			t.Errorf("%s, enrolled anew: %s", agents[i], got)
		}
	}
}
