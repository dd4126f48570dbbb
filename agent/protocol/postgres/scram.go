package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/api"
)

// mechanism is the only one offered: a client that wants channel binding cannot have it, because the TLS it would bind to ends
// at its own endpoint.
const mechanism = "SCRAM-SHA-256"

// Codes of Authentication messages.
const (
	authOK       = 0
	authSASL     = 10
	authContinue = 11
	authFinal    = 12
)

// scram checks the client's proof against a verifier (RFC 5802, RFC 7677; PostgreSQL manual, "SASL Authentication"). One attempt.
func scram(ctx context.Context, in *inbox, o *out, v *api.Verifier) error {
	if v.Iterations < 4096 || len(v.Salt) == 0 || len(v.StoredKey) != sha256.Size || len(v.ServerKey) != sha256.Size {
		return fmt.Errorf("scram: the endpoint's verifier is not usable")
	}
	if err := o.send(appendAuthentication(nil, authSASL, append([]byte(mechanism), 0, 0))); err != nil {
		return err
	}
	first, err := readPassword(ctx, in)
	if err != nil {
		return err
	}
	gs2, bare, err := clientFirst(first)
	if err != nil {
		return err
	}
	var random [18]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("scram: nonce: %w", err)
	}
	nonce := attribute(bare, 'r') + base64.StdEncoding.EncodeToString(random[:])
	serverFirst := "r=" + nonce + ",s=" + base64.StdEncoding.EncodeToString(v.Salt) + ",i=" + strconv.Itoa(v.Iterations)
	if err := o.send(appendAuthentication(nil, authContinue, []byte(serverFirst))); err != nil {
		return err
	}
	final, err := readPassword(ctx, in)
	if err != nil {
		return err
	}
	signature, ok := clientFinal(v, gs2, bare, serverFirst, nonce, string(final))
	if !ok {
		return refuseStart(stateBadPassword, "use the password that the endpoint printed; it is good for this endpoint alone", "password authentication failed")
	}
	return o.send(appendAuthentication(nil, authFinal, []byte("v="+signature)))
}

// readPassword reads one 'p' message's body.
func readPassword(ctx context.Context, in *inbox) ([]byte, error) {
	var head [header]byte
	if err := in.read(ctx, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if head[0] != 'p' || n < lengthWord || n > maxAuth {
		return nil, violated("expected a SASL response, got tag %q of %d bytes", head[0], n)
	}
	return in.readBody(ctx, nil, int(n)-lengthWord)
}

// clientFirst reads SASLInitialResponse: mechanism, length, and "n,,n=user,r=nonce".
func clientFirst(body []byte) (gs2, bare string, err error) {
	c := cursor{b: body}
	name := string(c.text())
	size := int(int32(c.uint32()))
	if c.bad || size != len(c.b) {
		return "", "", violated("malformed SASLInitialResponse")
	}
	if name != mechanism {
		return "", "", refuseStart(stateNoAuth, "channel binding ends at the endpoint: use channel_binding=prefer", "SASL mechanism %q is not offered", printable(name))
	}
	s := string(c.b)
	flag, rest, ok := strings.Cut(s, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 || flag != "n" && flag != "y" || authzid != "" || !strings.HasPrefix(bare, "n=") {
		return "", "", violated("malformed SCRAM message")
	}
	nonce := attribute(bare, 'r')
	if len(nonce) < 8 || len(nonce) > 256 || strings.ContainsFunc(nonce, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		return "", "", violated("malformed SCRAM nonce")
	}
	return s[:len(flag)+len(authzid)+2], bare, nil
}

// attribute is the value of name= in a SCRAM message; empty where it is missing.
func attribute(s string, name byte) string {
	for part := range strings.SplitSeq(s, ",") {
		if len(part) > 2 && part[0] == name && part[1] == '=' {
			return part[2:]
		}
	}
	return ""
}

// clientFinal checks "c=…,r=…,p=…" and returns the server's signature.
func clientFinal(v *api.Verifier, gs2, bare, serverFirst, nonce, final string) (string, bool) {
	i := strings.LastIndex(final, ",p=")
	if i < 0 {
		return "", false
	}
	without := final[:i]
	proof, err := base64.StdEncoding.DecodeString(final[i+3:])
	if err != nil || len(proof) != sha256.Size {
		return "", false
	}
	want := "c=" + base64.StdEncoding.EncodeToString([]byte(gs2)) + ",r=" + nonce
	if subtle.ConstantTimeCompare([]byte(without), []byte(want)) != 1 {
		return "", false
	}
	auth := []byte(bare + "," + serverFirst + "," + without)
	clientKey := mac(v.StoredKey, auth)
	subtle.XORBytes(clientKey, clientKey, proof)
	stored := sha256.Sum256(clientKey)
	if subtle.ConstantTimeCompare(stored[:], v.StoredKey) != 1 {
		return "", false
	}
	return base64.StdEncoding.EncodeToString(mac(v.ServerKey, auth)), true
}

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}
