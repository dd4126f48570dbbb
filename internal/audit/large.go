package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/store"
)

// Large points to a command's exact body where that does not fit its entry: the blob BodyName, sealed under the session's data key.
type Large struct {
	Stored     int    `json:"stored"`     // bytes, as sealed
	SHA256     string `json:"sha256"`     // of the sealed bytes, hex
	Normalised int    `json:"normalised"` // bytes of the whole normalised text, of which the entry has the beginning
}

// BodyPrefix is where bodies lie that do not fit their entries.
const BodyPrefix = "bodies/"

// excerpt is how much of a large command's normalised text its entry has.
const excerpt = 8 << 10

const useBody = "body"

// BodyName is the blob of a large command's body.
func BodyName(s access.SessionID, c access.CommandID) string {
	return BodyPrefix + string(s) + "/" + string(c)
}

// LargeCommandOf is CommandOf for a command that does not fit its entry, with the blob that must be stored before the entry. The whole
// normalised text is in it as well: the entry says that it has only the beginning.
func LargeCommandOf(c access.Command, digest string, dataKey []byte) (*Command, []byte, error) {
	plain, err := json.Marshal(Body{Text: c.Text, Masked: c.Masked, Params: c.Params, Prepared: c.State.Prepared, Normalised: c.Normalised})
	if err != nil {
		return nil, nil, fmt.Errorf("encode command body: %w", err)
	}
	blob, err := SealBlob(dataKey, useBody, []byte(c.ID), plain)
	if err != nil {
		return nil, nil, fmt.Errorf("seal command body: %w", err)
	}
	sum := sha256.Sum256(blob)
	return &Command{
		Verb: c.Verb, Digest: digest, Normalised: beginning(c.Normalised), Large: &Large{Stored: len(blob), SHA256: hex.EncodeToString(sum[:]), Normalised: len(c.Normalised)},
		State: OpenState(c.State), Touches: c.Touches, Classes: c.Classes, Facts: c.Facts, Complete: c.Complete, Why: c.Why, Prepare: c.Prepare,
	}, blob, nil
}

func beginning(s string) string {
	if len(s) <= excerpt {
		return s
	}
	n := excerpt
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s … (%d bytes in all)", s[:n], len(s))
}

// PlainLarge is the JSON of a large command's Body, out of its blob.
func PlainLarge(id access.CommandID, dataKey, blob []byte) ([]byte, error) {
	plain, err := OpenBlob(dataKey, useBody, []byte(id), blob)
	if err != nil {
		return nil, fmt.Errorf("command body of %s: %w", id, err)
	}
	return plain, nil
}

// OpenLarge returns the exact command out of its blob.
func OpenLarge(id access.CommandID, dataKey, blob []byte) (Body, error) {
	plain, err := PlainLarge(id, dataKey, blob)
	if err != nil {
		return Body{}, err
	}
	var b Body
	if err := json.Unmarshal(plain, &b); err != nil {
		return Body{}, fmt.Errorf("command body of %s: %w", id, err)
	}
	return b, nil
}

// bodies checks that the body of every large command is the one that was decided.
func (v *verifier) bodies(ctx context.Context) error {
	for i, l := range v.leaves {
		if l.bad != nil || l.entry.Command == nil || l.entry.Command.Large == nil {
			continue
		}
		v.r.Bodies++
		e, want := l.entry, l.entry.Command.Large
		if !isID(string(e.Session)) || !isID(e.ID) {
			v.entryProblem(CodeAltered, int64(i), l, "a large body of no command: %.80q in session %.80q", e.ID, e.Session)
			continue
		}
		b, err := v.c.Blobs.Open(ctx, BodyName(e.Session, access.CommandID(e.ID)))
		switch {
		case errors.Is(err, store.ErrNotFound):
			v.entryProblem(CodeRemoved, int64(i), l, "the body of command %s is gone", e.ID)
			continue
		case errors.Is(err, store.ErrTooLarge):
			b = nil
		case err != nil:
			return fmt.Errorf("read the body of command %s: %w", e.ID, err)
		}
		if sum := sha256.Sum256(b); len(b) != want.Stored || hex.EncodeToString(sum[:]) != want.SHA256 {
			v.entryProblem(CodeAltered, int64(i), l, "the body of command %s was altered after it was decided", e.ID)
		}
	}
	return nil
}
