package broker

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/api"
)

// wayLife is how long the functions' URLs are believed: they change only when a stack is made anew.
const wayLife = time.Hour

// way remembers where the functions are that have URLs of their own.
type way struct {
	mu    sync.Mutex // held while asking: others want the same answer
	bases map[string]string
	asked time.Time
	iam   bool // those that ask for an AWS identity come first; set before the first call
}

// baseOf says where a path is served. A pinned broker is one listener that serves all of them. A broker in the cloud may have a URL
// for each function; its discovery, which came over TLS from the URL that we were configured with, names them.
func (c caller) baseOf(ctx context.Context, path string) (string, error) {
	name := api.FunctionOf(path)
	if name == "" || c.pin != nil {
		return c.base, nil
	}
	c.way.mu.Lock()
	defer c.way.mu.Unlock()
	if c.way.bases == nil || time.Since(c.way.asked) > wayLife {
		bases, err := c.discover(ctx)
		if err != nil {
			return "", err
		}
		c.way.bases, c.way.asked = bases, time.Now()
	}
	if base := c.way.bases[name]; base != "" {
		return base, nil
	}
	return c.base, nil
}

func (c caller) discover(ctx context.Context) (map[string]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+api.PathDiscovery, nil)
	if err != nil {
		return nil, fmt.Errorf("call broker: %w", err)
	}
	body, err := c.send(req)
	if err != nil {
		return nil, err
	}
	d, err := decodeDiscovery(body)
	if err != nil {
		return nil, err
	}
	bases := map[string]string{}
	all := []map[string]string{d.Functions}
	if c.way.iam {
		all = append(all, d.FunctionsIAM)
	}
	for _, functions := range all {
		for name, url := range functions {
			a, err := parseAddress(url)
			if err != nil || a.pin != nil {
				return nil, fmt.Errorf("call broker: its discovery names %q for %s, which is not an https URL of a host: %w", url, name, err)
			}
			bases[name] = a.base
		}
	}
	return bases, nil
}
