package tunnel

import "time"

// Protocols negotiated by ALPN (RFC 7301). The number is the version: an incompatible change gets a new one.
const (
	ALPNStream = "sallyport-stream/1" // endpoint to relay
	ALPNUplink = "sallyport-uplink/1" // agent to relay, with the agent's certificate
	ALPNInner  = "sallyport-inner/1"  // endpoint to agent, inside a stream
)

// Version is the v of every frame.
const Version = 1

const (
	// MaxFrame is the largest body of a frame in bytes. A preamble is the largest: a token of at most 8 KiB, a proof, a verifier.
	MaxFrame = 16 << 10
	// HandshakeTimeout ends a peer that has not finished TLS and its hello: a slow handshake takes three round trips, and each that is
	// pending costs memory that its sender has not paid for.
	HandshakeTimeout = 5 * time.Second
	// MaxChunk is the most that one write to a stream carries: two TLS records inside (22 bytes more for each), one mux frame (12 more), and
	// then just two full records of 16384 bytes on each leg. Nothing waits long behind it.
	MaxChunk = 32<<10 - 2*22 - 12
)
