package token

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idtoken"
	"github.com/sallyport/sallyport/internal/store"
	tokens "github.com/sallyport/sallyport/internal/token"
)

// login trades an ID token for a root: signatures first, then what makes both proofs single use, then the root with its entry.
func (f *function) login(r *http.Request, form url.Values) (any, error) {
	if err := only(form, api.FieldSalt); err != nil {
		return nil, err
	}
	now := f.Now()
	if len(r.Header.Values("Authorization")) != 0 {
		return nil, api.Because(api.ErrBadRequest, "", "a login needs no access token")
	}
	proof, err := tokens.VerifyDPoP(r, f.Base, "", now)
	if err != nil {
		return nil, err
	}
	id, err := f.provider.Verify(r.Context(), form.Get(api.FieldSubject))
	switch {
	case errors.Is(err, idtoken.ErrProvider):
		f.Log.Warn("identity provider", "error", err)
		return nil, api.Because(api.ErrUnavailable, "try again", "the identity provider could not be asked")
	case err != nil:
		return nil, api.Because(api.ErrLogin, "log in again: sallyport login", "ID token: %v", err)
	}
	if err := bound(id.Nonce, form.Get(api.FieldSalt), proof.Thumbprint); err != nil {
		return nil, err
	}
	if err := tokens.Spend(r.Context(), f.Items, proof.Used, "the DPoP proof"); err != nil {
		return nil, err
	}
	if err := tokens.Spend(r.Context(), f.Items, tokens.UsedOnce("id", id.Payload, id.Until.Add(tokens.Skew)), "the ID token"); err != nil {
		return nil, err
	}
	return f.newRoot(r, id, proof.Thumbprint, now)
}

// bound says whether an ID token may be used by this key. One with a nonce was asked for by a key, and is worth nothing to others; one
// without (minted by a machine for a script) is a bearer's, good once.
func bound(nonce, salt, thumbprint string) error {
	if nonce == "" && salt == "" {
		return nil
	}
	if nonce == "" || subtle.ConstantTimeCompare([]byte(nonce), []byte(tokens.LoginNonce(thumbprint, salt))) != 1 {
		return api.Because(api.ErrLogin, "log in again: sallyport login", "the ID token was asked for by another key")
	}
	return nil
}

func (f *function) newRoot(r *http.Request, id idtoken.Identity, thumbprint string, now time.Time) (any, error) {
	rootID, err := tokens.NewID(now)
	if err != nil {
		return nil, err
	}
	created := now.UTC().Truncate(time.Second)
	root := tokens.Root{
		ID: access.ActorID(rootID), Principal: id.Subject, Groups: id.Groups, AuthTime: id.AuthTime, Created: created,
		RenewedUntil: created.Add(tokens.RootIdle), Thumbprint: thumbprint, Epoch: f.Issuer.Epoch(),
	}
	c := tokens.Claims{
		Principal: id.Subject, Groups: id.Groups, Path: []access.Node{{ID: root.ID, Name: id.Subject}}, Assurance: access.Exchanged,
		AuthTime: id.AuthTime, Capability: access.Everything(), Thumbprint: thumbprint, GrantExpires: root.End(),
	}
	entryID, err := tokens.NewID(now)
	if err != nil {
		return nil, err
	}
	lineage := c.Lineage()
	w, err := root.Put(store.Cond{})
	if err != nil {
		return nil, err
	}
	// Signed before it is stored: what cannot become a token leaves no login behind.
	answer, err := f.issue(r.Context(), c, root, now)
	if err != nil {
		return nil, err
	}
	// The index line first: alone it means nothing, a root without it could not be found.
	index := store.Write{Table: store.Grants, Item: store.Item{
		Key: tokens.DayKey(root.ID, created), Body: []byte(`{}`), Expires: root.End().Add(24 * time.Hour),
	}}
	if err := f.Items.Put(r.Context(), index); err != nil {
		return nil, unavailable(err)
	}
	err = f.store(r.Context(), w, audit.Entry{
		V: 1, Kind: audit.KindLogin, ID: entryID, Time: now.UTC(), Lineage: &lineage,
		Note: map[string]string{"issuer": f.OIDC.Issuer, "jkt": thumbprint, "until": root.End().Format(time.RFC3339)},
	})
	if err != nil {
		return nil, unavailable(err)
	}
	f.Log.Info("login", "principal", id.Subject, "actor", root.ID, "entry", entryID)
	return answer, nil
}
