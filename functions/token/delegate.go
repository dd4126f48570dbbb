package token

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	tokens "github.com/sallyport/sallyport/internal/token"
)

// child is what a delegation asks for, read from the form and checked by itself.
type child struct {
	name       string
	purpose    string
	capability access.Capability
	life       time.Duration // 0: as long as the parent
	key        tokens.Possession
}

// maxPurpose is in bytes: purposes of all ancestors travel in every token.
const maxPurpose = 200

func (f *function) readChild(form url.Values, now time.Time) (child, error) {
	c := child{name: form.Get(api.FieldName), purpose: form.Get(api.FieldPurpose)}
	if err := access.CheckName("actor", c.name); err != nil {
		return child{}, api.Because(api.ErrBadRequest, "", "%v", err)
	}
	if !idtoken.PlainText(c.purpose, maxPurpose) {
		return child{}, api.Because(api.ErrBadRequest, "say in a sentence what the actor is for", "purpose: want 1 to %d bytes of plain text", maxPurpose)
	}
	if len(form[api.FieldCapability]) == 0 {
		return child{}, api.Because(api.ErrBadRequest, "name at least one: --allow read:TARGET", "no capability: the actor could do nothing")
	}
	for _, s := range form[api.FieldCapability] {
		g, err := access.ParseGrantlet(s)
		if err != nil {
			return child{}, api.Because(api.ErrBadRequest, "", "%v", err)
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return child{}, api.Because(api.ErrBadRequest, "", "capability: control characters")
		}
		c.capability = append(c.capability, g)
	}
	if s, ok := form[api.FieldLife]; ok {
		n, err := strconv.ParseInt(s[0], 10, 32)
		if err != nil || n < 1 {
			return child{}, api.Because(api.ErrBadRequest, "", "%s: want seconds, at least 1", api.FieldLife)
		}
		c.life = time.Duration(n) * time.Second
	}
	if t := form.Get(api.FieldActorType); t != api.TypeKeyProof {
		return child{}, api.Because(api.ErrBadRequest, "", "%s %q is not served", api.FieldActorType, t)
	}
	key, err := tokens.VerifyKeyProof(form.Get(api.FieldActor), f.Issuer.Name(), now)
	c.key = key
	return c, err
}

// delegate makes a child of the caller: its own key, a capability and an end within the parent's, one step deeper.
func (f *function) delegate(r *http.Request, form url.Values) (any, error) {
	if err := only(form, api.FieldActor, api.FieldActorType, api.FieldName, api.FieldPurpose, api.FieldCapability, api.FieldLife); err != nil {
		return nil, err
	}
	now := f.Now()
	raw, err := tokens.Bearer(r)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(raw), []byte(form.Get(api.FieldSubject))) != 1 {
		return nil, api.Because(api.ErrBadRequest, "", "%s is not the token that authorizes the request", api.FieldSubject)
	}
	want, err := f.readChild(form, now)
	if err != nil {
		return nil, err
	}
	parent, root, _, err := f.caller(r, now)
	if err != nil {
		return nil, err
	}
	if err := narrower(parent, root, want, now); err != nil {
		return nil, err
	}
	if err := tokens.Spend(r.Context(), f.Items, want.key.Used, "the key proof"); err != nil {
		return nil, err
	}
	return f.newChild(r, parent, root, want, now)
}

// narrower refuses a child that would have anything more than its parent.
func narrower(parent tokens.Claims, root tokens.Root, want child, now time.Time) error {
	who := parent.Lineage().Actor().Name
	switch {
	case parent.Lineage().Depth() >= tokens.MaxDepth:
		return api.Because(api.ErrDenied, "", "%s is %d actors deep: no deeper", who, tokens.MaxDepth)
	case !parent.Capability.Covers(want.capability):
		return api.Because(api.ErrDenied, "ask for less: sallyport whoami shows what "+who+" has", "the capability asked for is wider than %s's own", who)
	case want.life > 0 && now.Add(want.life).After(parent.GrantExpires):
		return api.Because(api.ErrDenied, "", "the life asked for is longer than %s's own, which ends at %s", who, parent.GrantExpires.Format(time.RFC3339))
	case want.key.Thumbprint == parent.Thumbprint || want.key.Thumbprint == root.Thumbprint:
		return api.Because(api.ErrDenied, "let the child make a key of its own", "the key is not the child's own")
	}
	return nil
}

func (f *function) newChild(r *http.Request, parent tokens.Claims, root tokens.Root, want child, now time.Time) (any, error) {
	id, err := tokens.NewID(now)
	if err != nil {
		return nil, err
	}
	node := access.Node{ID: access.ActorID(id), Name: want.name, Purpose: want.purpose}
	c := parent
	c.Path = append(slices.Clone(parent.Path), node)
	c.Capability, c.Thumbprint, c.Assurance = want.capability, want.key.Thumbprint, access.Exchanged
	if want.life > 0 {
		c.GrantExpires = now.Add(want.life).UTC().Truncate(time.Second)
	}
	rec := tokens.ActorRecord{
		Node: node, Parent: parent.Lineage().Actor().ID, Capability: want.capability, Created: now.UTC(), Expires: c.GrantExpires, Thumbprint: c.Thumbprint,
	}
	for _, n := range c.Path {
		rec.Path = append(rec.Path, n.ID)
	}
	w, err := rec.Put(root.ID)
	if err != nil {
		return nil, err
	}
	// Signed before it is stored: what cannot become a token leaves no actor behind.
	answer, err := f.issue(r.Context(), c, root, now)
	if err != nil {
		return nil, err
	}
	entryID, err := tokens.NewID(now)
	if err != nil {
		return nil, err
	}
	grantlets := make([]string, len(want.capability))
	for i, g := range want.capability {
		grantlets[i] = g.String()
	}
	lineage := c.Lineage()
	err = f.store(r.Context(), w, audit.Entry{
		V: 1, Kind: audit.KindDelegate, ID: entryID, Time: now.UTC(), Lineage: &lineage,
		Note: map[string]string{"capability": strings.Join(grantlets, " "), "jkt": c.Thumbprint, "until": c.GrantExpires.Format(time.RFC3339)},
	})
	if err != nil {
		return nil, unavailable(err)
	}
	f.Log.Info("delegate", "principal", c.Principal, "actor", node.ID, "entry", entryID)
	return answer, nil
}
