package measure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// Need is what one call of decide needs of DynamoDB on the hot path, and what it decides. A test holds the code to it, and infra/cost multiplies it.
type Need struct {
	Name               string
	Sessions, Commands int // of a call, and of each session
	Outcome            access.Outcome
	Gets, Puts         int     // requests
	Reads, Writes      float64 // units; a test lets writes be a fifth less: keys and digests are packed by chance
}

// Needs are the calls that matter.
var Needs = []Need{
	{Name: "one command", Sessions: 1, Commands: 1, Outcome: access.Allow, Gets: 1, Puts: 1, Reads: 1, Writes: 1},
	{Name: "64 commands of one session", Sessions: 1, Commands: 64, Outcome: access.Allow, Gets: 1, Puts: 1, Reads: 1, Writes: 18},
	{Name: "64 sessions of one login", Sessions: 64, Commands: 1, Outcome: access.Allow, Gets: 1, Puts: 64, Reads: 1, Writes: 64},
	{Name: "one held command", Sessions: 1, Commands: 1, Outcome: access.Hold, Gets: 3, Puts: 2, Reads: 3, Writes: 5},
}

// ReadsPerSecond is what the first decision of a second needs besides, in each process: the policy's pointer and the agent's record, and for each session
// its own record.
const ReadsPerSecond = 3

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
