package api

// Verifier is a SCRAM-SHA-256 verifier (RFC 5803) of an endpoint's one-off password: the agent's room checks the client
// against it without ever holding the password.
type Verifier struct {
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
	StoredKey  []byte `json:"stored_key"`
	ServerKey  []byte `json:"server_key"`
}

// Preamble is what an endpoint says inside the TLS of a stream, before the client's first byte.
type Preamble struct {
	V        int       `json:"v"` // 1
	Endpoint string    `json:"endpoint"`
	Token    string    `json:"token"`
	Proof    string    `json:"proof"` // token.Proof over this very channel
	Client   Client    `json:"client"`
	Verifier *Verifier `json:"verifier,omitempty"` // nil: the endpoint knows its caller by peer credentials
}

// Welcome is the agent's answer to a Preamble: the proof holds on this channel. Whether a session opens is told to the client in its
// own protocol.
type Welcome struct {
	V     int    `json:"v"` // 1
	Error *Error `json:"error,omitempty"`
}
