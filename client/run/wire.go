package run

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// A message on the socket is four bytes of length, big endian, and that much JSON. A connection carries one request and answer
// after the other.
const (
	version = 1
	// maxRequest holds the largest capability and any call.
	maxRequest = 256 << 10
	// maxAnswer holds the largest answer of the broker, and its envelope.
	maxAnswer = api.MaxBody + 64<<10
)

// Operations.
const (
	opHello    = "hello"    // who is this run?
	opDelegate = "delegate" // the caller becomes a run of its own
	opCall     = "call"     // ask the broker as this run's actor
	opEndpoint = "endpoint" // a socket to a target
)

type request struct {
	V        int               `json:"v"`
	Op       string            `json:"op"`
	Delegate *delegation       `json:"delegate,omitempty"`
	Call     *call             `json:"call,omitempty"`
	Target   access.TargetName `json:"target,omitempty"`
}

type delegation struct {
	Name       string            `json:"name"`
	Purpose    string            `json:"purpose"`
	Capability access.Capability `json:"capability"`
	Life       time.Duration     `json:"life"`
	KeyProof   string            `json:"key_proof"`
}

type call struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
}

type answer struct {
	V        int                `json:"v"`
	Error    *api.Error         `json:"error,omitempty"`
	Hello    *Hello             `json:"hello,omitempty"`
	Token    *api.TokenResponse `json:"token,omitempty"`
	Body     json.RawMessage    `json:"body,omitempty"`
	Endpoint *Endpoint          `json:"endpoint,omitempty"`
}

// Hello says who a run is, and where its broker.
type Hello struct {
	URL        string            `json:"url"`
	Lineage    access.Lineage    `json:"lineage"`
	Capability access.Capability `json:"capability"`
}

// Endpoint is where programs of the run find a target.
type Endpoint struct {
	Target   access.TargetName `json:"target"`
	Protocol string            `json:"protocol"`
	Database string            `json:"database"`
	Dir      string            `json:"dir"`
	Path     string            `json:"path"`
}

func writeMessage(w io.Writer, v any, limit int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(b) > limit {
		return api.Because(api.ErrTooLarge, "", "message of %d bytes is over %d", len(b), limit)
	}
	msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	_, err = w.Write(append(msg, b...))
	return err
}

// readMessage reads one message into v; io.EOF means an orderly end before it.
func readMessage(r io.Reader, v any, limit int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(limit) {
		return api.Because(api.ErrTooLarge, "", "message of %d bytes, want 1 to %d", n, limit)
	}
	var buf bytes.Buffer // grows with what really comes
	if _, err := io.CopyN(&buf, r, int64(n)); err != nil {
		return fmt.Errorf("message was cut: %w", errors.Join(io.ErrUnexpectedEOF, err))
	}
	d := json.NewDecoder(&buf)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return api.Because(api.ErrBadRequest, "", "message: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return api.Because(api.ErrBadRequest, "", "message: something follows the JSON value")
	}
	return nil
}

// check refuses a request that is not exactly one of the known ones.
func (r request) check() error {
	if r.V != version {
		return api.Because(api.ErrBadRequest, "use the same version of sallyport inside and outside", "version %d is not %d", r.V, version)
	}
	want := request{V: r.V, Op: r.Op}
	switch r.Op {
	case opHello:
	case opDelegate:
		want.Delegate = r.Delegate
	case opCall:
		want.Call = r.Call
	case opEndpoint:
		want.Target = r.Target
	default:
		return api.Because(api.ErrBadRequest, "", "operation %q is not known", r.Op)
	}
	if r != want || (r.Op == opDelegate && r.Delegate == nil) || (r.Op == opCall && r.Call == nil) {
		return api.Because(api.ErrBadRequest, "", "operation %q does not have the fields it wants", r.Op)
	}
	switch r.Op {
	case opCall:
		return r.Call.check()
	case opEndpoint:
		if err := access.CheckName("target", string(r.Target)); err != nil {
			return api.Because(api.ErrBadRequest, "", "%v", err)
		}
	}
	return nil
}

// callable are the broker's paths that a program of the run may ask through it. Tokens, tickets and join tokens are not among
// them: nothing that could be used elsewhere leaves by this way.
var callable = []struct{ method, path string }{
	{http.MethodGet, api.PathWhoami},
	{http.MethodPost, api.PathCan},
	{http.MethodPost, api.PathRevoke},
	{http.MethodGet, api.PathApprovals},
	{http.MethodGet, api.PathSessions},
	{http.MethodGet, api.PathActors},
}

func (c call) check() error {
	path, _, _ := strings.Cut(c.Path, "?")
	if rest, ok := strings.CutPrefix(path, api.PathSessions); ok && ofSession(c.Method, rest) {
		return nil
	}
	for _, known := range callable {
		if c.Method != known.method {
			continue
		}
		rest, ok := strings.CutPrefix(path, known.path)
		if ok && (rest == "" || (known.method == http.MethodGet && isID(rest))) {
			return nil
		}
	}
	return api.Because(api.ErrDenied, "inside a run you can ask whoami, can, revoke, approvals, sessions and actors",
		"%s %s is not for programs of a run", c.Method, path)
}

// ofSession says whether something below one session is for programs of a run: a recording, a large body, or to end it.
func ofSession(method, rest string) bool {
	switch parts := strings.Split(rest, "/"); {
	case len(parts) == 3 && method == http.MethodPost:
		return parts[0] == "" && isID("/"+parts[1]) && parts[2] == "end"
	case len(parts) == 4 && method == http.MethodGet:
		return parts[0] == "" && isID("/"+parts[1]) && (parts[2] == "recordings" || parts[2] == "bodies") && isID("/"+parts[3])
	}
	return false
}

// isID says whether s is "/" and one plain segment: an id of the broker.
func isID(s string) bool {
	id, ok := strings.CutPrefix(s, "/")
	if !ok || id == "" || len(id) > 64 {
		return false
	}
	return strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
