// Package agent is the process in the private network: it keeps uplinks to the relays and serves its targets' sessions through the gate.
// It refuses to start without a certificate of its own key, for a protocol that it has no room for, and for a target that it is not enrolled for.
package agent
