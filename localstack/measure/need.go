package measure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Need is a line of infra/cost/needs.tsv: what one call of decide needs of DynamoDB on the hot path, and what it decides.
type Need struct {
	Name               string
	Sessions, Commands int // of a call, and of each session
	Outcome            access.Outcome
	Gets, Puts         int     // requests
	Reads, Writes      float64 // units
}

// FirstOfSecond names the one need that is not of the hot path: what is believed for a second is read again.
const FirstOfSecond = "the first of a second"

// ReadNeeds reads the file.
func ReadNeeds(path string) ([]Need, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Need
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		n := Need{}
		name, rest, _ := strings.Cut(line, "\t")
		outcome := ""
		if _, err := fmt.Sscan(rest, &n.Sessions, &n.Commands, &outcome, &n.Gets, &n.Puts, &n.Reads, &n.Writes); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		n.Name, n.Outcome = name, map[string]access.Outcome{"allow": access.Allow, "hold": access.Hold}[outcome]
		all = append(all, n)
	}
	return all, nil
}

// ReadAnswer reads what decide answers to a check.
func ReadAnswer(status int, body []byte) (api.CheckResponse, error) {
	var out api.CheckResponse
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if status != http.StatusOK {
		e := new(api.Error)
		if err := d.Decode(e); err != nil {
			return out, fmt.Errorf("answer %d: %s", status, body)
		}
		return out, e
	}
	return out, d.Decode(&out)
}
