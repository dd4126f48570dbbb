// Package broker is how clients, agents and relays call the broker: JSON over TLS, each call bound to its caller's key.
// It refuses plain HTTP, redirects, a server that is not under the pinned CA, and answers that are too large or not understood.
package broker
