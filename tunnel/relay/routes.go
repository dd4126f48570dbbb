package relay

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/mux"
)

// link is one uplink. It is a route from before its agent hears that it is welcome, so that an agent that says it is ready is; a stream for
// it waits for ready.
type link struct {
	agent   token.Agent
	ready   chan struct{} // closed when session is there, or never will be
	session *mux.Session  // read after ready or under routes.mu
}

// routes knows which uplinks lead to a target: those whose certificate names it, as long as it is valid.
type routes struct {
	limits Limits
	log    *slog.Logger

	mu       sync.Mutex
	count    int
	agents   map[access.AgentName]map[*link]bool
	targets  map[access.TargetName]map[access.AgentName]map[*link]bool
	stopping bool
}

func newRoutes(limits Limits, log *slog.Logger) *routes {
	return &routes{
		limits: limits, log: log,
		agents:  map[access.AgentName]map[*link]bool{},
		targets: map[access.TargetName]map[access.AgentName]map[*link]bool{},
	}
}

// add takes a place for an uplink that is about to come up. Its errors are *api.Error.
func (r *routes) add(l *link) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := r.agents[l.agent.Name]
	switch {
	case r.stopping:
		return api.Because(api.ErrBusy, "connect to another relay", "this relay is stopping")
	case r.count >= r.limits.Uplinks:
		return api.Because(api.ErrBusy, "connect to another relay", "this relay takes no more than %d uplinks", r.limits.Uplinks)
	case len(same) >= r.limits.UplinksPerAgent:
		return api.Because(api.ErrBusy, "configure fewer connections", "agent %s has %d uplinks already", l.agent.Name, len(same))
	}
	for other := range same {
		// A renewed certificate has a new key and a later end. An older one that comes back beside it is somebody's copy.
		if other.agent.Thumbprint != l.agent.Thumbprint && other.agent.Expires.After(l.agent.Expires) {
			r.log.Warn("agent connects with an older key beside a newer one: is it running twice?",
				"agent", l.agent.Name, "key", l.agent.Thumbprint, "newer_key", other.agent.Thumbprint)
			break
		}
	}
	r.count++
	if same == nil {
		same = map[*link]bool{}
		r.agents[l.agent.Name] = same
	}
	same[l] = true
	for _, t := range l.agent.Targets {
		byAgent := r.targets[t]
		if byAgent == nil {
			byAgent = map[access.AgentName]map[*link]bool{}
			r.targets[t] = byAgent
		}
		if byAgent[l.agent.Name] == nil {
			byAgent[l.agent.Name] = map[*link]bool{}
		}
		byAgent[l.agent.Name][l] = true
	}
	return nil
}

// up gives an uplink its session; false when the relay has begun to stop.
func (r *routes) up(l *link, s *mux.Session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return false
	}
	l.session = s
	close(l.ready)
	return true
}

// remove forgets an uplink.
func (r *routes) remove(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count--
	if l.session == nil {
		close(l.ready)
	}
	if delete(r.agents[l.agent.Name], l); len(r.agents[l.agent.Name]) == 0 {
		delete(r.agents, l.agent.Name)
	}
	for _, t := range l.agent.Targets {
		byAgent := r.targets[t]
		if delete(byAgent[l.agent.Name], l); len(byAgent[l.agent.Name]) == 0 {
			delete(byAgent, l.agent.Name)
		}
		if len(byAgent) == 0 {
			delete(r.targets, t)
		}
	}
}

// open opens a stream to the agent that serves the target for this endpoint. It is the same one as long as it is connected, on every
// relay: a cancel must find the session that it is for. Its errors are *api.Error.
func (r *routes) open(t access.TargetName, endpoint string) (*mux.Stream, error) {
	var full access.AgentName
	for tried := map[*link]bool{}; ; {
		l := r.pick(t, endpoint, tried)
		if l == nil || full != "" && l.agent.Name != full {
			break // an agent that is full is not passed over for another one
		}
		tried[l] = true
		<-l.ready // its welcome is under way, for HandshakeTimeout at most
		if l.session == nil {
			continue
		}
		s, err := l.session.Open()
		if err == nil {
			return s, nil
		}
		if errors.Is(err, mux.ErrFull) {
			full = l.agent.Name
		}
	}
	if full != "" {
		return nil, api.Because(api.ErrBusy, "close a connection, or give the agent more uplinks", "the agent that serves %s takes no more streams", t)
	}
	return nil, api.Because(api.ErrUnavailable, "is the agent running, and enrolled for this target?", "no agent that serves %s is connected", t)
}

// pick chooses the agent by rendezvous hashing and its uplink by the fewest streams, leaving out what was tried.
func (r *routes) pick(t access.TargetName, endpoint string, tried map[*link]bool) *link {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var best *link
	var bestScore uint64
	for name, links := range r.targets[t] {
		var free *link
		streams := 0
		for l := range links {
			if tried[l] || !now.Before(l.agent.Expires) {
				continue
			}
			n := 0
			if l.session != nil {
				n = l.session.Streams()
			}
			if free == nil || n < streams {
				free, streams = l, n
			}
		}
		if free == nil {
			continue
		}
		if s := score(endpoint, name); best == nil || s > bestScore {
			best, bestScore = free, s
		}
	}
	return best
}

func score(endpoint string, agent access.AgentName) uint64 {
	h := sha256.Sum256([]byte(endpoint + "\x00" + string(agent)))
	return binary.BigEndian.Uint64(h[:])
}

// leave makes no uplink a route any more and closes those that carry nothing, so that their agents look for another relay at once.
func (r *routes) leave() {
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	r.close(func(s *mux.Session) bool { return s.Streams() == 0 })
}

// closeAll closes every uplink.
func (r *routes) closeAll() { r.close(func(*mux.Session) bool { return true }) }

func (r *routes) close(which func(*mux.Session) bool) {
	r.mu.Lock()
	var sessions []*mux.Session
	for _, links := range r.agents {
		for l := range links {
			if l.session != nil && which(l.session) {
				sessions = append(sessions, l.session)
			}
		}
	}
	r.mu.Unlock()
	for _, s := range sessions {
		s.Close() // waits for its goroutines, and may so for remove: not under the lock
	}
}
