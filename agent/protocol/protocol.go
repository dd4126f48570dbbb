package protocol

import (
	"bufio"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
)

// Protocol is a room. Serve speaks to one client until it or the target ends; it returns nil for an orderly end. It closes
// client and whatever it dialled, and leaves no goroutine. ctx ends when the session must (revoked, agent stopping): then it
// tells the client in its protocol and returns. context.Cause(ctx) is an *access.Denied where one can be told.
type Protocol interface {
	Serve(ctx context.Context, client net.Conn, s *Session) error
}

// Aside is implemented by rooms whose clients open connections that are not sessions, such as PostgreSQL's cancel request.
// TakeAside looks at the first bytes (peeking only what it must); true means that it dealt with the connection. It may act
// only on sessions that owner opened.
type Aside interface {
	TakeAside(ctx context.Context, client *bufio.Reader, owner Owner) (bool, error)
}

// RowCounter is implemented by rooms that can bound how many rows a command delivers and changes (Permit.RowLimit). Where a room is none, an
// obligation to bound them denies.
type RowCounter interface{ CountsRows() }

// Refuser tells a client, in the protocol's own words, why no session was opened. It reads what it must of the handshake,
// at most a few kilobytes within the ctx's deadline, answers, and closes client.
type Refuser interface {
	Refuse(ctx context.Context, client net.Conn, d *access.Denied) error
}

// Owner tells one endpoint from all others: the endpoint's id and the thumbprint of the key that signed for it.
type Owner struct{ Endpoint, Thumbprint string }

// Gate is where a room asks. Check returns one permit per command, in order; on error, which is *access.Denied with Index
// i, the permits before i are still valid (call Done on those that are not used). held is called at most once per command
// that waits; Check then blocks until the verdict, the hold's expiry or the end of ctx. Check fills ID, Session and Seq.
type Gate interface {
	Check(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error)
}

// Session is one authorised use of one target by one client: data, the credential, Dial and Gate.
type Session struct {
	ID      access.SessionID
	Target  access.TargetName
	Lineage access.Lineage
	Owner   Owner
	Classes []access.Class // of the bundle, and the floor's: resolve them to columns from a catalogue snapshot
	// MaskKey is for masks that are keyed. The zero Secret makes them show "****".
	MaskKey secret.Secret
	// Login is what the room logs in to the target with.
	Login Login
	// Verifier is what the client must prove on its leg; nil where the endpoint told its caller by other means (peer
	// credentials on a socket that nobody else can reach).
	Verifier *api.Verifier
	// Dial reaches the target at the configured address, and nothing else. No TLS yet: that is the room's.
	Dial func(ctx context.Context) (net.Conn, error)
	Gate Gate
	// Recorder keeps what a command leaves beside its outcome. Never nil.
	Recorder Recorder
	Log      *slog.Logger
}

// The kinds of a Recording.
const (
	// Cast is a terminal: lines of asciicast version 2, the header first, each Write one or more whole lines.
	Cast = "cast"
	// File is the bytes of a file that was transferred.
	File = "file"
)

// Recorder begins recordings of the session. At most one per command (Permit.Command), whose permit was used or is about to be.
// name is for people: what the recording shows. An error means that what was to be recorded must not begin.
type Recorder interface {
	Start(command access.CommandID, kind, name string) (Recording, error)
}

// Recording is written by one goroutine. A Write is durable within a second, or, where it blocks, before it returns: it blocks
// briefly at most. Its error means that the channel must end, because recording is an obligation. Close seals the recording
// as complete; one that is not closed is closed as interrupted, by the session's end or by the agent's next start.
type Recording interface {
	io.WriteCloser
}

// Login is the target's side of the agent's configuration.
type Login struct {
	User string
	// Password is the credential: a password, or what the protocol takes in its place, such as a private key in PEM.
	Password secret.Secret
	Database string // the only database where not empty
	Peer     Peer
}

// Peer says how the target must prove itself.
type Peer struct {
	Mode       string // "disable" (loopback and unix sockets only), "verify-full", "pin"
	ServerName string
	CAFile     string
	Pin        []byte // SHA-256 of the target's public key as its protocol writes it: SubjectPublicKeyInfo in TLS, RFC 4253 section 6.6 in SSH
}

// String is for people who check a configuration.
func (p Peer) String() string {
	switch p.Mode {
	case "verify-full":
		return "verified as " + p.ServerName
	case "pin":
		return "pinned to key " + hex.EncodeToString(p.Pin)
	case "disable":
		return "unverified on this machine"
	}
	return "refused: no way to verify it"
}
