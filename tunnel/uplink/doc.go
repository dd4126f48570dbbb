// Package uplink is the agent's side of the tunnel: it keeps connections to a relay, takes streams off them, and answers the TLS that
// an endpoint speaks inside.
// It refuses a relay that the stack's CA did not sign, and a stream for a target that the agent's certificate does not name.
package uplink
