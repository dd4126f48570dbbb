// Package tunnel carries bytes between an endpoint and an agent that nobody in between can read: the frames that open a stream, the
// TLS that its two ends speak to each other inside it, and the copying in the middle. PROTOCOL.md describes the whole wire.
// It refuses frames that are malformed or over MaxFrame, streams that end without saying so, and every TLS version but 1.3.
package tunnel
