package state_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/client/state"
)

func TestTheBrokerIsRemembered(t *testing.T) {
	home := filepath.Join(t.TempDir(), "state")
	d, err := state.Open(home, "")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := d.LoadBroker(); err != nil || b != (state.Broker{}) {
		t.Fatalf("before init: %+v, %v", b, err)
	}
	want := state.Broker{URL: "https://b.test/", Console: "https://c.test/", Stack: "sallyport", Region: "eu-west-1"}
	if err := d.SaveBroker(want); err != nil {
		t.Fatal(err)
	}
	if got, err := d.LoadBroker(); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, damaged := range []string{"", "{}", `{"v":2,"url":"https://b.test/","console":"","stack":"","region":""}`, `{"v":1,"url":"https://b.test/","more":1}`} {
		if err := os.WriteFile(filepath.Join(home, "broker.json"), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.LoadBroker(); err == nil || !strings.Contains(err.Error(), "sallyport init") {
			t.Errorf("%q: %v", damaged, err)
		}
	}
}
