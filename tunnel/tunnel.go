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
	// MaxChunk is the most that one write to a stream carries. With the overhead of a TLS record (22 bytes) and of a mux frame (12) it fills
	// one TLS record of 16384 bytes on each leg: no leg splits what another sent, and none waits long behind it.
	MaxChunk = 16<<10 - 22 - 12
)
