// Package client is the endpoint's side of the tunnel: through a relay to the agent of a target, proving its key on the way.
// It refuses a relay or an agent that the stack's CA did not sign for what it claims to be, before it says anything worth hearing.
package client
