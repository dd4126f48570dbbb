package decide

import (
	"slices"
	"sync"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/policy"
)

// classes remembers the classes of data of the bundles that this process saw active. An agent resolves classes to columns
// when a session opens; under a bundle whose classes differ, it would report and mask the wrong ones.
type classes struct {
	mu   sync.Mutex
	seen []seenBundle
}

type seenBundle struct {
	address string
	classes []access.Class
}

// maxSeen is how many bundles are remembered: a session is open over few publications, and one too many means no.
const maxSeen = 16

// same says whether sessions opened under the bundle with this address see the data as the active one does.
func (c *classes) same(address string, active *policy.Bundle) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) == 0 || c.seen[len(c.seen)-1].address != active.Address {
		c.seen = slices.DeleteFunc(c.seen, func(s seenBundle) bool { return s.address == active.Address })
		if len(c.seen) == maxSeen {
			c.seen = c.seen[1:]
		}
		c.seen = append(c.seen, seenBundle{active.Address, active.Classes})
	}
	if address == active.Address {
		return true
	}
	return slices.ContainsFunc(c.seen, func(s seenBundle) bool {
		return s.address == address && slices.EqualFunc(s.classes, active.Classes, func(a, b access.Class) bool {
			return a.Name == b.Name && a.Mask == b.Mask && a.Detector == b.Detector && slices.Equal(a.Columns, b.Columns)
		})
	})
}
