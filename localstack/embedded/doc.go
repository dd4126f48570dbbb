// Package embedded runs the whole system on one machine: the broker's functions on embedded stores, a relay, a development identity
// provider, and the agent as a child process, all over real sockets on loopback.
// It refuses to listen beyond loopback, and to share its directory with another running instance.
package embedded
