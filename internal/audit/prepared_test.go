package audit

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
)

// What a target has prepared holds literals like any text: it is sealed with it, and shredded with it.
func TestWhatIsPreparedIsNotInTheOpen(t *testing.T) {
	key := make([]byte, 32)
	c := access.Command{ID: "01", Text: "execute x", State: access.State{Role: "app", Prepared: "select * from cards where pan = '4111111111111111'"}}
	kept, err := CommandOf(c, "d", key)
	if err != nil {
		t.Fatal(err)
	}
	large, blob, err := LargeCommandOf(c, "d", key)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Command{kept, large} {
		b, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("4111")) || k.State.Role != "app" {
			t.Errorf("the entry says %s", b)
		}
	}
	body, err := OpenBody(kept, "01", key)
	if err != nil || body.Prepared != c.State.Prepared {
		t.Errorf("%+v, %v", body, err)
	}
	if body, err = OpenLarge("01", key, blob); err != nil || body.Prepared != c.State.Prepared {
		t.Errorf("%+v, %v", body, err)
	}
}
