package broker

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/token"
)

// ActorConfig says who calls.
type ActorConfig struct {
	URL   string // of the broker: https://HOST[:PORT][/#ca=PIN], PIN the base64url SHA-256 of its CA's certificate
	Key   *ecdsa.PrivateKey
	Token func() string    // the current access token; nil or "" before login
	Now   func() time.Time // nil: time.Now
}

// Actor is a principal or actor that calls the broker; every call proves possession of its key (RFC 9449).
type Actor struct {
	Public
	key   *ecdsa.PrivateKey
	token func() string
	now   func() time.Time
}

// NewActor makes the client. It holds connections: one for a process is enough.
func NewActor(c ActorConfig) (*Actor, error) {
	if c.Key == nil {
		return nil, errors.New("broker client: no key")
	}
	p, err := NewPublic(c.URL)
	if err != nil {
		return nil, err
	}
	a := &Actor{Public: *p, key: c.Key, token: c.Token, now: c.Now}
	if a.token == nil {
		a.token = func() string { return "" }
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a, nil
}

// Do calls any path, which may carry a query: in (nil for none) is sent as JSON, out (nil for none) is decoded strictly. Errors of
// the broker are *api.Error.
func (a *Actor) Do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("call broker: encode: %w", err)
		}
		body = b
	}
	return a.do(ctx, method, path, body, "application/json", out)
}

func (a *Actor) do(ctx context.Context, method, path string, body []byte, contentType string, out any) error {
	req, err := a.caller.request(ctx, method, path, body, contentType)
	if err != nil {
		return err
	}
	raw := a.token()
	bare, _, _ := strings.Cut(req.URL.String(), "?")
	proof, err := token.SignDPoP(a.key, method, bare, raw, a.now())
	if err != nil {
		return fmt.Errorf("call broker: %w", err)
	}
	req.Header.Set(token.HeaderDPoP, proof)
	if raw != "" {
		req.Header.Set("Authorization", token.SchemeDPoP+" "+raw)
	}
	answer, err := a.caller.send(req)
	if err != nil {
		return err
	}
	return decode(answer, out)
}

// form posts to PathToken, the one path that RFC 8693 wants a form for.
func (a *Actor) form(ctx context.Context, v url.Values) (api.TokenResponse, error) {
	var out api.TokenResponse
	err := a.do(ctx, http.MethodPost, api.PathToken, []byte(v.Encode()), "application/x-www-form-urlencoded", &out)
	return out, err
}

// Login trades an ID token for an access token bound to the actor's key. salt is what token.LoginNonce took; "" for an ID token
// without nonce.
func (a *Actor) Login(ctx context.Context, idToken, salt string) (api.TokenResponse, error) {
	v := url.Values{api.FieldGrant: {api.GrantExchange}, api.FieldSubject: {idToken}, api.FieldSubjectType: {api.TypeIDToken}}
	if salt != "" {
		v.Set(api.FieldSalt, salt)
	}
	login := *a
	login.token = func() string { return "" } // an older login has no part in a new one
	return login.form(ctx, v)
}

// Delegation asks for a child actor.
type Delegation struct {
	Name       string
	Purpose    string
	Capability access.Capability // not wider than the caller's
	Life       time.Duration     // whole seconds; 0: as long as the caller
	KeyProof   string            // token.SignKeyProof by the child's own key
}

// Delegate makes a child of the caller.
func (a *Actor) Delegate(ctx context.Context, d Delegation) (api.TokenResponse, error) {
	v := url.Values{
		api.FieldGrant: {api.GrantExchange}, api.FieldSubject: {a.token()}, api.FieldSubjectType: {api.TypeAccessToken},
		api.FieldActor: {d.KeyProof}, api.FieldActorType: {api.TypeKeyProof}, api.FieldName: {d.Name}, api.FieldPurpose: {d.Purpose},
	}
	for _, g := range d.Capability {
		v.Add(api.FieldCapability, g.String())
	}
	if d.Life != 0 {
		v.Set(api.FieldLife, strconv.FormatInt(int64(d.Life/time.Second), 10))
	}
	fixed := *a
	raw := v.Get(api.FieldSubject)
	fixed.token = func() string { return raw } // the form and the proof speak of one token, even while it is renewed
	return fixed.form(ctx, v)
}

// Renew returns a fresh token for the same node.
func (a *Actor) Renew(ctx context.Context) (api.TokenResponse, error) {
	var out api.TokenResponse
	return out, a.Do(ctx, http.MethodPost, api.PathRenew, nil, &out)
}

// Ticket asks for the way to a target.
func (a *Actor) Ticket(ctx context.Context, r api.TicketRequest) (api.TicketResponse, error) {
	var out api.TicketResponse
	return out, a.Do(ctx, http.MethodPost, api.PathTicket, r, &out)
}

// Revoke ends a node and all under it.
func (a *Actor) Revoke(ctx context.Context, r api.RevokeRequest) error {
	return a.Do(ctx, http.MethodPost, api.PathRevoke, r, nil)
}

// Whoami says what the broker knows of the caller.
func (a *Actor) Whoami(ctx context.Context) (api.Whoami, error) {
	var out api.Whoami
	return out, a.Do(ctx, http.MethodGet, api.PathWhoami, nil, &out)
}

// Can asks what would be decided.
func (a *Actor) Can(ctx context.Context, r api.CanRequest) (api.CanResponse, error) {
	var out api.CanResponse
	return out, a.Do(ctx, http.MethodPost, api.PathCan, r, &out)
}

// Join makes a join token. Administrators only.
func (a *Actor) Join(ctx context.Context, r api.JoinRequest) (api.JoinResponse, error) {
	var out api.JoinResponse
	return out, a.Do(ctx, http.MethodPost, api.PathJoin, r, &out)
}

// Approvals lists approvals; status "" means all.
func (a *Actor) Approvals(ctx context.Context, status string) ([]api.ApprovalView, error) {
	path := api.PathApprovals
	if status != "" {
		path += "?" + url.Values{"status": {status}}.Encode()
	}
	var out []api.ApprovalView
	return out, a.Do(ctx, http.MethodGet, path, nil, &out)
}

// Approval shows one.
func (a *Actor) Approval(ctx context.Context, id access.ApprovalID) (api.ApprovalView, error) {
	var out api.ApprovalView
	return out, a.Do(ctx, http.MethodGet, api.PathApprovals+"/"+url.PathEscape(string(id)), nil, &out)
}

// Sessions lists sessions, newest first; limit 0 leaves it to the broker.
func (a *Actor) Sessions(ctx context.Context, limit int) ([]api.SessionView, error) {
	path := api.PathSessions
	if limit > 0 {
		path += "?limit=" + strconv.Itoa(limit)
	}
	var out []api.SessionView
	return out, a.Do(ctx, http.MethodGet, path, nil, &out)
}

// Session shows one with its commands.
func (a *Actor) Session(ctx context.Context, id access.SessionID) (api.SessionView, error) {
	var out api.SessionView
	return out, a.Do(ctx, http.MethodGet, api.PathSessions+"/"+url.PathEscape(string(id)), nil, &out)
}

// Actors is the live tree.
func (a *Actor) Actors(ctx context.Context) ([]api.ActorView, error) {
	var out []api.ActorView
	return out, a.Do(ctx, http.MethodGet, api.PathActors, nil, &out)
}
