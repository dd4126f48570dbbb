// Package relay joins the streams of endpoints to the uplinks of agents, by the targets that the agents' certificates name, and copies
// what passes without looking at it.
// It refuses endpoints without a ticket of the broker, agents without a certificate of the stack, and anybody who takes their time.
package relay
