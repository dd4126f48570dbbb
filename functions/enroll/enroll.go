// Package enroll is the function where a new agent trades a one-time join token for a certificate, and a known one renews its own.
// It refuses a join token that has expired or that another key has used, and names that the policy does not know.
package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// JoinLife is how long a join token may wait for its agent.
const JoinLife = time.Hour

// joinPrefix makes a join token recognisable where it must not be: in logs and repositories.
const joinPrefix = "sallyport-join-"

// maxCSR bounds a CSR in PEM; one over a P-256 key has about 500 bytes.
const maxCSR = 4 << 10

// maxEnroll bounds the body of who has shown nothing yet: a CSR, escaped for JSON, and a token.
const maxEnroll = 16 << 10

// Bundles gives the active policy bundle: its targets and roles.
type Bundles interface {
	Active(ctx context.Context) (*policy.Bundle, error)
}

// Config is what the function needs; every field without a comment about its zero is required.
type Config struct {
	Items    store.Items
	Verifier *token.Verifier
	CA       *token.CA
	Bundles  Bundles
	Relays   []string         // host:port, told to agents
	Base     string           // our own public URL
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: none
}

type function struct{ Config }

// New returns the handler of api.PathJoin, PathEnroll, PathRecertify and PathRevokeAgent.
func New(c Config) (http.Handler, error) {
	if c.Items == nil || c.Verifier == nil || c.CA == nil || c.Bundles == nil || c.Base == "" {
		return nil, errors.New("functions/enroll: Items, Verifier, CA, Bundles and Base are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f, mux := &function{c}, http.NewServeMux()
	for path, h := range map[string]func(*http.Request) (any, error){api.PathJoin: f.join, api.PathEnroll: f.enroll, api.PathRecertify: f.recertify,
		api.PathRevokeAgent: f.revoke} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := h(r)
			if err != nil {
				api.Fail(w, c.Log, err)
				return
			}
			api.Write(w, v)
		})
	}
	return mux, nil
}

// invitation is a join token's item. The token itself is kept nowhere: its hash is the key.
type invitation struct {
	Agent   access.AgentName    `json:"agent"`
	Targets []access.TargetName `json:"targets"`
	Expires time.Time           `json:"expires"`
	UsedBy  string              `json:"used_by,omitempty"` // thumbprint of the agent's key
}

// made is when the join token was made.
func (i invitation) made() time.Time { return i.Expires.Add(-JoinLife) }

// NewJoinToken makes a join token for an agent and its targets: single use, JoinLife. It is younger than every revocation of the agent.
func NewJoinToken(ctx context.Context, items store.Items, agent access.AgentName, targets []access.TargetName, now time.Time) (api.JoinResponse, error) {
	if err := checkNames(agent, targets); err != nil {
		return api.JoinResponse{}, err
	}
	rec, _, err := agents.Get(ctx, items, agent)
	if err != nil {
		return api.JoinResponse{}, unavailable(err)
	}
	raw := joinPrefix + token.NewRandom()
	inv := invitation{Agent: agent, Targets: targets, Expires: rec.After(now).Add(JoinLife)}
	w, err := inv.put(raw, store.Cond{})
	if err != nil {
		return api.JoinResponse{}, err
	}
	if err := items.Put(ctx, w); err != nil {
		return api.JoinResponse{}, unavailable(err)
	}
	return api.JoinResponse{JoinToken: raw, Expires: inv.Expires}, nil
}

func checkNames(agent access.AgentName, targets []access.TargetName) error {
	if err := access.CheckName("agent", string(agent)); err != nil {
		return api.Because(api.ErrBadRequest, "", "%v", err)
	}
	if len(targets) == 0 || len(targets) > token.MaxTargets {
		return api.Because(api.ErrBadRequest, "", "an agent serves 1 to %d targets", token.MaxTargets)
	}
	for i, t := range targets {
		if err := access.CheckName("target", string(t)); err != nil {
			return api.Because(api.ErrBadRequest, "", "%v", err)
		}
		if slices.Contains(targets[:i], t) {
			return api.Because(api.ErrBadRequest, "", "target %q is named twice", t)
		}
	}
	return nil
}

func joinKey(raw string) store.Key {
	h := sha256.Sum256([]byte(raw))
	return store.Key{PK: "join#" + base64.RawURLEncoding.EncodeToString(h[:]), SK: "join"}
}

func (i invitation) put(raw string, cond store.Cond) (store.Write, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode join token: %w", err)
	}
	return store.Write{Table: store.Grants, Item: store.Item{Key: joinKey(raw), Body: b, Expires: i.Expires}, Cond: cond}, nil
}

// administrator is the caller, if it is an administrator in person: actors under one may neither invite agents nor revoke them.
func (f *function) administrator(r *http.Request, now time.Time, what string) (token.Claims, *policy.Bundle, error) {
	c, err := f.Verifier.Request(r.Context(), r, f.Base, f.Items, now)
	if err != nil {
		return c, nil, err
	}
	if _, _, err := token.Live(r.Context(), f.Items, c, now); err != nil {
		return c, nil, err
	}
	b, err := f.Bundles.Active(r.Context())
	if err != nil {
		return c, nil, fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again; if it stays so, the stack's operator publishes one: `sallyport stack publish DIR --stack NAME`", "no active policy"), err)
	}
	if c.Lineage().Depth() != 0 || !b.Roles.Administrator(c.Groups) {
		return c, nil, api.Because(api.ErrDenied, "ask an administrator", "%s may not %s", c.Lineage().Actor().Name, what).By(api.RuleAdministrators)
	}
	return c, b, nil
}

// join makes a join token.
func (f *function) join(r *http.Request) (any, error) {
	now := f.Now()
	c, b, err := f.administrator(r, now, "make join tokens")
	if err != nil {
		return nil, err
	}
	var in api.JoinRequest
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	if err := checkNames(in.Agent, in.Targets); err != nil {
		return nil, err
	}
	for _, t := range in.Targets {
		if _, ok := b.Target(t); !ok {
			return nil, api.Because(api.ErrNotFound, "the policy's targets.yaml names them", "no target %q", t)
		}
	}
	out, err := NewJoinToken(r.Context(), f.Items, in.Agent, in.Targets, now)
	if err != nil {
		return nil, err
	}
	f.Log.Info("join token", "principal", c.Principal, "agent", in.Agent)
	return out, nil
}

// enroll trades a join token. The key that used it may ask again within its hour, for an answer that was lost; no other key may.
func (f *function) enroll(r *http.Request) (any, error) {
	now := f.Now()
	var in api.EnrollRequest
	r.Body = http.MaxBytesReader(nil, r.Body, maxEnroll)
	if err := api.Read(r, &in); err != nil {
		return nil, err
	}
	csr, jkt, err := readCSR(in.CSR)
	if err != nil {
		return nil, err
	}
	inv, it, err := f.invited(r.Context(), in.JoinToken)
	if err != nil {
		return nil, err
	}
	if !now.Before(inv.Expires) {
		return nil, api.Because(api.ErrLogin, "ask an administrator for a new one: sallyport agent enroll", "the join token has expired").By(api.RuleJoinToken)
	}
	if inv.UsedBy != "" && inv.UsedBy != jkt {
		return nil, api.Because(api.ErrConflict, "ask an administrator for a new one: sallyport agent enroll", "the join token was used before").By(api.RuleJoinToken)
	}
	at, err := f.issue(r.Context(), inv, now)
	if err != nil {
		return nil, err
	}
	// Signed first and told last: nothing leaves before the token is used up and the entry is stored.
	out, err := f.certify(r.Context(), csr, inv.Agent, inv.Targets, at)
	if err != nil {
		return nil, err
	}
	if inv.UsedBy == jkt {
		return out, nil
	}
	inv.UsedBy = jkt
	w, err := inv.put(in.JoinToken, store.Cond{Version: it.Version, LiveAt: now})
	if err != nil {
		return nil, err
	}
	line, err := f.entry(inv.Agent, inv.Targets, jkt, "join", now)
	if err != nil {
		return nil, err
	}
	switch err := f.Items.Transact(r.Context(), w, line); {
	case errors.Is(err, store.ErrConflict):
		return nil, api.Because(api.ErrConflict, "", "the join token was used before").By(api.RuleJoinToken)
	case err != nil:
		return nil, unavailable(err)
	}
	f.Log.Info("enroll", "agent", inv.Agent)
	return out, nil
}

// issueTries bounds the compare-and-swap on an agent's record: its own renewals compete.
const issueTries = 8

// issue notes that the agent gets a certificate, and says when. A join token that was made before the agent was revoked is refused, also where
// its certificate is only asked for again.
func (f *function) issue(ctx context.Context, inv invitation, now time.Time) (time.Time, error) {
	for range issueTries {
		rec, it, err := agents.Get(ctx, f.Items, inv.Agent)
		if err != nil {
			return time.Time{}, unavailable(err)
		}
		if err := rec.Good(inv.made()); err != nil {
			return time.Time{}, err
		}
		at, w, err := rec.Issue(it, now)
		if err != nil {
			return time.Time{}, err
		}
		if err = f.Items.Put(ctx, w); err == nil {
			return at, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return time.Time{}, unavailable(err)
		}
	}
	return time.Time{}, api.Because(api.ErrBusy, "try again", "the agent's record is being changed by others")
}

func (f *function) invited(ctx context.Context, raw string) (invitation, store.Item, error) {
	if !strings.HasPrefix(raw, joinPrefix) || len(raw) != len(joinPrefix)+43 {
		return invitation{}, store.Item{}, api.Because(api.ErrLogin, "", "not a join token").By(api.RuleJoinToken)
	}
	it, err := f.Items.Get(ctx, store.Grants, joinKey(raw), true)
	if errors.Is(err, store.ErrNotFound) {
		return invitation{}, store.Item{}, api.Because(api.ErrLogin, "", "no such join token").By(api.RuleJoinToken)
	}
	if err != nil {
		return invitation{}, store.Item{}, unavailable(err)
	}
	var inv invitation
	if err := json.Unmarshal(it.Body, &inv); err != nil {
		return invitation{}, store.Item{}, fmt.Errorf("join token: %w", err)
	}
	return inv, it, nil
}

// recertify gives an agent, for a key that may be new, a fresh certificate with the names that its present one has.
func (f *function) recertify(r *http.Request) (any, error) {
	now := f.Now()
	var in api.RecertifyRequest
	agent, err := token.ReadAgent(r, f.CA.Cert(), now, &in)
	if err != nil {
		return nil, err
	}
	csr, jkt, err := readCSR(in.CSR)
	if err != nil {
		return nil, err
	}
	rec, it, err := agents.Get(r.Context(), f.Items, agent.Name)
	if err != nil {
		return nil, unavailable(err)
	}
	if err := rec.Good(agent.Issued); err != nil {
		return nil, err
	}
	at, w, err := rec.Issue(it, now)
	if err != nil {
		return nil, err
	}
	out, err := f.certify(r.Context(), csr, agent.Name, agent.Targets, at)
	if err != nil {
		return nil, err
	}
	line, err := f.entry(agent.Name, agent.Targets, jkt, "recertify", now)
	if err != nil {
		return nil, err
	}
	switch err := f.Items.Transact(r.Context(), w, line); {
	case errors.Is(err, store.ErrConflict):
		return nil, api.Because(api.ErrConflict, "ask again", "the agent's record was changed meanwhile")
	case err != nil:
		return nil, unavailable(err)
	}
	return out, nil
}

func (f *function) certify(ctx context.Context, csr *x509.CertificateRequest, agent access.AgentName, targets []access.TargetName, now time.Time) (api.EnrollResponse, error) {
	der, err := f.CA.IssueAgent(ctx, csr, agent, targets, now)
	if err != nil {
		return api.EnrollResponse{}, err
	}
	return api.EnrollResponse{
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), CA: string(f.CA.PEM()),
		Agent: agent, Targets: targets, Relays: f.Relays,
	}, nil
}

func (f *function) entry(agent access.AgentName, targets []access.TargetName, jkt, how string, now time.Time) (store.Write, error) {
	id, err := token.NewID(now)
	if err != nil {
		return store.Write{}, err
	}
	names := make([]string, len(targets))
	for i, t := range targets {
		names[i] = string(t)
	}
	return audit.Put(audit.Entry{
		V: 1, Kind: audit.KindEnroll, ID: id, Time: now.UTC(), Agent: agent,
		Note: map[string]string{"how": how, "targets": strings.Join(names, " "), "jkt": jkt},
	})
}

// readCSR reads one PEM block; its signature is checked where it is used, too.
func readCSR(s string) (*x509.CertificateRequest, string, error) {
	if len(s) > maxCSR {
		return nil, "", api.Because(api.ErrTooLarge, "", "the CSR is over %d bytes", maxCSR)
	}
	block, rest := pem.Decode([]byte(s))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || strings.TrimSpace(string(rest)) != "" {
		return nil, "", api.Because(api.ErrBadRequest, "", "the CSR is not one PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, "", api.Because(api.ErrBadRequest, "", "CSR: %v", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, "", api.Because(api.ErrBadRequest, "", "CSR: %v", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || token.Thumbprint(key) == "" {
		return nil, "", api.Because(api.ErrBadRequest, "make a P-256 key", "CSR: the key is not a P-256 key")
	}
	return csr, token.Thumbprint(key), nil
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, "try again", "the store did not answer"), err)
}
