package infra

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/config"
)

// The compose file was never run here: what can be read in it is held to what the programs understand, to what the images promise, and to what
// Compose refuses only when it starts a container.
func TestCompose(t *testing.T) {
	file := load(t, "../localstack/compose.yaml")
	services := at2(file["services"])
	if len(services) != 4 {
		t.Errorf("%d services", len(services))
	}
	for name, s := range services {
		if image := show(at(s, "image")); !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
			t.Errorf("%s: image %s", name, image)
		}
		for _, p := range list(at(s, "ports")) {
			if !strings.HasPrefix(show(p), "127.0.0.1:") {
				t.Errorf("%s: port %v is everybody's", name, p)
			}
		}
		if strings.HasPrefix(show(at(s, "image")), "sallyport-") && (at(s, "read_only") != "true" || !slices.Contains(list(at(s, "cap_drop")), any("ALL"))) {
			t.Errorf("%s: may write, or has capabilities", name)
		}
		for k, v := range at2(at(s, "environment")) {
			if (strings.Contains(k, "PASSWORD") || strings.HasSuffix(k, "KEY") || strings.Contains(k, "TOKEN")) && !strings.HasPrefix(show(v), "${") {
				t.Errorf("%s: %s is written down", name, k)
			}
		}
	}
	for name, c := range at2(file["configs"]) { // the programs' roots are read only
		if at(c, "file") == nil || at(c, "content") != nil || at(c, "environment") != nil {
			t.Errorf("config %s is no file: Compose cannot put it into a container whose root is read only", name)
		}
	}
	text, err := os.ReadFile("../localstack/compose-agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(agent, []byte(strings.Replace(string(text), "\nbroker: BROKER\n", "\nbroker: https://token.example.com\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(agent, nil); err != nil {
		t.Errorf("the agent: %v", err)
	}
	environment := at2(at(services["relay"], "environment"))
	relay := show(environment["SALLYPORT_RELAY"])
	for _, m := range regexp.MustCompile(`env:([A-Z_]+)`).FindAllStringSubmatch(relay, -1) {
		if environment[m[1]] == nil {
			t.Errorf("the relay takes %s, which nobody sets", m[1])
		}
	}
	for _, k := range []string{"listen:", "certificate:", "key:", "ca:", "broker:"} {
		if !strings.Contains(relay, k) {
			t.Errorf("the relay misses %s", k)
		}
	}
}
