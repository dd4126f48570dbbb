package session

import (
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// Skew is how far the time in an agent's id may be from the broker's clock, either way (architecture section 9).
const Skew = 60 * time.Second

// Time is the time that a ULID carries. Only the canonical spelling counts: two spellings of one id would be two keys.
func Time(id string) (time.Time, error) {
	u, err := ulid.ParseStrict(id)
	if err != nil {
		return time.Time{}, fmt.Errorf("id %q: %w", clip(id), err)
	}
	if u.String() != id {
		return time.Time{}, fmt.Errorf("id %q is not in its canonical spelling", clip(id))
	}
	return ulid.Time(u.Time()).UTC(), nil
}

// Fresh says whether an id was made within Skew of now.
func Fresh(id string, now time.Time) error {
	t, err := Time(id)
	if err != nil {
		return err
	}
	if d := t.Sub(now).Abs(); d > Skew {
		return fmt.Errorf("id %s: its time is %s from the broker's clock, more than %s", id, d.Round(time.Second), Skew)
	}
	return nil
}

// clip keeps a malformed id from filling a message: a ULID has 26 characters.
func clip(s string) string {
	if len(s) > 32 {
		return s[:32] + "…"
	}
	return s
}
