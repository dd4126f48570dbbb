package token

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// Audiences: a ticket is worth nothing at the broker, an access token nothing at a relay.
const (
	audienceBroker = "broker"
	audienceRelay  = "relay"
)

// accessClaims is an access token on the wire. "act" is the RFC 8693 nesting of "path", for readers that know only that; it is checked
// to say the same.
type accessClaims struct {
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	IssuedAt  int64    `json:"iat"`
	Expires   int64    `json:"exp"`
	ID        string   `json:"jti"`
	Epoch     int64    `json:"epoch"`
	Root      string   `json:"root"`
	Path      []node   `json:"path"`
	Depth     int      `json:"depth"`
	Act       *act     `json:"act,omitempty"`
	Groups    []string `json:"groups,omitempty"`
	Cap       []string `json:"cap"`
	Assurance int      `json:"asr"`
	AuthTime  int64    `json:"auth_time,omitempty"` // 0: the provider did not say
	GrantEnds int64    `json:"gexp"`
	Confirm   cnf      `json:"cnf"`
}

type node struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Purpose string `json:"purpose,omitempty"`
}

type act struct {
	Subject string `json:"sub"`
	Act     *act   `json:"act,omitempty"`
}

type cnf struct {
	Thumbprint string `json:"jkt"`
}

type ticketClaims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`
	Epoch    int64  `json:"epoch"`
	Target   string `json:"target"`
	Endpoint string `json:"endpoint"`
}

// Issuer signs access tokens and relay tickets.
type Issuer struct {
	iss   string
	key   store.Signer
	epoch int64
}

// NewIssuer signs for iss with key. epoch is raised when a store is restored: older tokens die.
func NewIssuer(iss string, key store.Signer, epoch int64) *Issuer {
	return &Issuer{iss: iss, key: key, epoch: epoch}
}

// Name is the issuer's name, "iss".
func (i *Issuer) Name() string { return i.iss }

// Epoch is the epoch of what it signs.
func (i *Issuer) Epoch() int64 { return i.epoch }

// Access signs an access token. It refuses claims that Verifier.Access would refuse.
func (i *Issuer) Access(ctx context.Context, c Claims) (string, error) {
	w := accessClaims{
		Issuer: i.iss, Audience: audienceBroker, Subject: c.Principal, IssuedAt: c.Issued.Unix(), Expires: c.Expires.Unix(), ID: c.ID, Epoch: i.epoch,
		Root: string(c.Lineage().Root()), Depth: c.Lineage().Depth(), Act: actOf(c.Path), Groups: c.Groups, Cap: make([]string, 0, len(c.Capability)),
		Assurance: int(c.Assurance), GrantEnds: c.GrantExpires.Unix(), Confirm: cnf{c.Thumbprint},
	}
	if !c.AuthTime.IsZero() {
		w.AuthTime = c.AuthTime.Unix()
	}
	for _, n := range c.Path {
		w.Path = append(w.Path, node{string(n.ID), n.Name, n.Purpose})
	}
	for _, g := range c.Capability {
		w.Cap = append(w.Cap, g.String())
	}
	if _, err := w.claims(); err != nil {
		return "", fmt.Errorf("access token: %w", err)
	}
	raw, err := i.sign(ctx, typAccess, w)
	if err != nil {
		return "", fmt.Errorf("access token: %w", err)
	}
	return raw, nil
}

// Ticket signs a relay ticket.
func (i *Issuer) Ticket(ctx context.Context, t Ticket) (string, error) {
	w := ticketClaims{
		Issuer: i.iss, Audience: audienceRelay, IssuedAt: t.Expires.Add(-TicketLife).Unix(), Expires: t.Expires.Unix(), ID: t.ID, Epoch: i.epoch,
		Target: string(t.Target), Endpoint: t.Endpoint,
	}
	if _, err := w.ticket(); err != nil {
		return "", fmt.Errorf("ticket: %w", err)
	}
	raw, err := i.sign(ctx, typTicket, w)
	if err != nil {
		return "", fmt.Errorf("ticket: %w", err)
	}
	return raw, nil
}

// JWKS is the key set that verifiers fetch: the one public key, named by its thumbprint.
func (i *Issuer) JWKS() []byte {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: Thumbprint(i.key.Public()), Algorithm: string(jose.ES256), Use: "sig"}}})
	if err != nil {
		return []byte(`{"keys":[]}`) // verifiers refuse an empty set
	}
	return b
}

// Verifier checks what an Issuer signed. The zero Verifier accepts nothing.
type Verifier struct {
	iss   string
	epoch int64
	keys  map[string]*ecdsa.PublicKey
}

// NewVerifier accepts tokens of iss and epoch that one of keys signed.
func NewVerifier(iss string, epoch int64, keys ...*ecdsa.PublicKey) *Verifier {
	v := &Verifier{iss: iss, epoch: epoch, keys: make(map[string]*ecdsa.PublicKey, len(keys))}
	for _, k := range keys {
		if t := Thumbprint(k); t != "" {
			v.keys[t] = k
		}
	}
	return v
}

const loginHint = "log in again: sallyport login"

// Access verifies an access token. Its errors are of kind api.ErrLogin. Whether its lineage is alive is the root item's to say.
func (v *Verifier) Access(raw string, now time.Time) (Claims, error) {
	var w accessClaims
	if err := verifyKnown(raw, typAccess, v.keys, &w); err != nil {
		return Claims{}, api.Because(api.ErrLogin, loginHint, "access token: %v", err)
	}
	if err := v.common(w.Issuer, w.Audience, audienceBroker, w.Epoch, w.IssuedAt, w.Expires, AccessLife, now); err != nil {
		return Claims{}, refused("access token", loginHint, err)
	}
	c, err := w.claims()
	if err != nil {
		return Claims{}, api.Because(api.ErrLogin, loginHint, "access token: %v", err)
	}
	return c, nil
}

// Renewable verifies an access token that may have expired, as long as its grant has not. It is good for nothing but renewal, together
// with a proof of its key and a root that is alive: a program that slept through five minutes need not log in again.
func (v *Verifier) Renewable(raw string, now time.Time) (Claims, error) {
	var w accessClaims
	if err := verifyKnown(raw, typAccess, v.keys, &w); err != nil {
		return Claims{}, api.Because(api.ErrLogin, loginHint, "access token: %v", err)
	}
	at := now
	if exp := time.Unix(w.Expires, 0); !at.Before(exp) {
		at = exp.Add(-time.Second)
	}
	if !now.Before(time.Unix(w.GrantEnds, 0)) {
		return Claims{}, api.Because(api.ErrLogin, loginHint, "access token: its grant has ended")
	}
	return v.Access(raw, at)
}

// Ticket verifies a relay ticket. Its errors are of kind api.ErrLogin.
func (v *Verifier) Ticket(raw string, now time.Time) (Ticket, error) {
	var w ticketClaims
	if err := verifyKnown(raw, typTicket, v.keys, &w); err != nil {
		return Ticket{}, api.Because(api.ErrLogin, "", "ticket: %v", err)
	}
	if err := v.common(w.Issuer, w.Audience, audienceRelay, w.Epoch, w.IssuedAt, w.Expires, TicketLife, now); err != nil {
		return Ticket{}, refused("ticket", "", err)
	}
	t, err := w.ticket()
	if err != nil {
		return Ticket{}, api.Because(api.ErrLogin, "", "ticket: %v", err)
	}
	return t, nil
}

// MaxEpoch bounds what an epoch can be, so that none is raised past every later one.
const MaxEpoch = 1_000_000

var (
	errEpochOver  = errors.New("made before a store was restored")
	errEpochAhead = errors.New("made in a later epoch than is known here")
)

// Epoch is the one whose tokens are accepted.
func (v *Verifier) Epoch() int64 { return v.epoch }

func refused(what, hint string, err error) *api.Error {
	e := api.Because(api.ErrLogin, hint, "%s: %v", what, err)
	switch {
	case errors.Is(err, errEpochOver):
		return e.By(api.RuleEpochOver)
	case errors.Is(err, errEpochAhead):
		return e.By(api.RuleEpochAhead)
	}
	return e
}

func (v *Verifier) common(iss, aud, wantAud string, epoch, iat, exp int64, life time.Duration, now time.Time) error {
	switch {
	case v.iss == "" || iss != v.iss:
		return errors.New("made by another issuer")
	case aud != wantAud:
		return fmt.Errorf("made for %q, not for %q", aud, wantAud)
	case epoch < v.epoch:
		return errEpochOver
	case epoch > v.epoch:
		return errEpochAhead
	case iat <= 0 || time.Unix(iat, 0).After(now.Add(Skew)):
		return errors.New("made in the future")
	case exp <= iat || exp-iat > int64(life/time.Second):
		return errors.New("lives longer than it may")
	case !now.Before(time.Unix(exp, 0)):
		return errors.New("expired")
	}
	return nil
}

// claims checks everything that needs no clock.
func (w accessClaims) claims() (Claims, error) {
	if len(w.Path) == 0 || len(w.Path) > MaxDepth+1 || w.Depth != len(w.Path)-1 {
		return Claims{}, fmt.Errorf("a path of %d steps at depth %d", len(w.Path), w.Depth)
	}
	if w.Subject == "" || w.Path[0].ID != w.Root || w.Path[0].Name != w.Subject {
		return Claims{}, errors.New("subject, root and path disagree")
	}
	if w.Assurance < int(access.Inherited) || w.Assurance > int(access.Isolated) {
		return Claims{}, errors.New("an assurance that is not known")
	}
	if !isID(w.ID) || !isThumbprint(w.Confirm.Thumbprint) {
		return Claims{}, errors.New("no id, or bound to no key")
	}
	if w.GrantEnds < w.Expires {
		return Claims{}, errors.New("outlives its grant")
	}
	c := Claims{
		ID: w.ID, Principal: w.Subject, Groups: w.Groups, Assurance: access.Assurance(w.Assurance),
		Thumbprint: w.Confirm.Thumbprint, Issued: time.Unix(w.IssuedAt, 0).UTC(), Expires: time.Unix(w.Expires, 0).UTC(), GrantExpires: time.Unix(w.GrantEnds, 0).UTC(),
	}
	if w.AuthTime != 0 {
		c.AuthTime = time.Unix(w.AuthTime, 0).UTC()
	}
	seen := make(map[string]bool, len(w.Path))
	for i, n := range w.Path {
		if !isID(n.ID) || seen[n.ID] {
			return Claims{}, errors.New("a path with a step twice, or without an id")
		}
		if i > 0 {
			if err := access.CheckName("actor", n.Name); err != nil {
				return Claims{}, err
			}
		}
		seen[n.ID] = true
		c.Path = append(c.Path, access.Node{ID: access.ActorID(n.ID), Name: n.Name, Purpose: n.Purpose})
	}
	if !sameAct(w.Act, actOf(c.Path)) {
		return Claims{}, errors.New("act and path disagree")
	}
	for _, s := range w.Cap {
		g, err := access.ParseGrantlet(s)
		if err != nil {
			return Claims{}, err
		}
		c.Capability = append(c.Capability, g)
	}
	return c, nil
}

func (w ticketClaims) ticket() (Ticket, error) {
	if err := access.CheckName("target", w.Target); err != nil {
		return Ticket{}, err
	}
	if !isID(w.ID) || !isRandom(w.Endpoint) {
		return Ticket{}, errors.New("no id, or no endpoint")
	}
	return Ticket{ID: w.ID, Endpoint: w.Endpoint, Target: access.TargetName(w.Target), Expires: time.Unix(w.Expires, 0).UTC()}, nil
}

// actOf nests a path as RFC 8693 section 4.1 wants it: the one who acts now outermost; the subject itself is not in it.
func actOf(path []access.Node) *act {
	var a *act
	for i, n := range path {
		if i > 0 {
			a = &act{Subject: n.Name, Act: a}
		}
	}
	return a
}

func sameAct(a, b *act) bool {
	for a != nil && b != nil {
		if a.Subject != b.Subject {
			return false
		}
		a, b = a.Act, b.Act
	}
	return a == nil && b == nil
}

func isID(s string) bool {
	_, err := ulid.ParseStrict(s)
	return err == nil
}
