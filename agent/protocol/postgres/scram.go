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

// The mechanisms. The one with channel binding is offered to a client that has TLS up to the room: it binds to the room's own certificate.
const (
	mechanism     = "SCRAM-SHA-256"
	mechanismPlus = "SCRAM-SHA-256-PLUS"
	bindingFlag   = "p=tls-server-end-point"
)

// Codes of Authentication messages.
const (
	authOK       = 0
	authSASL     = 10
	authContinue = 11
	authFinal    = 12
)

// scram checks the client's proof against a verifier (RFC 5802, RFC 7677; PostgreSQL manual, "SASL Authentication"). One attempt. binding is
// nil where the connection is not TLS.
func scram(ctx context.Context, in *inbox, o *out, v *api.Verifier, user string, binding []byte) error {
	if v.Iterations < 4096 || len(v.Salt) == 0 || len(v.StoredKey) != sha256.Size || len(v.ServerKey) != sha256.Size {
		return fmt.Errorf("scram: the endpoint's verifier is not usable")
	}
	var offer []byte
	if binding != nil {
		offer = appendText(offer, mechanismPlus)
	}
	if err := o.send(appendAuthentication(nil, authSASL, append(appendText(offer, mechanism), 0))); err != nil {
		return err
	}
	first, err := readPassword(ctx, in)
	if err != nil {
		return err
	}
	gs2, bare, err := clientFirst(first, binding != nil)
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
	bound := []byte(gs2)
	if strings.HasPrefix(gs2, bindingFlag) {
		bound = append(bound, binding...)
	}
	signature, ok := clientFinal(v, bound, bare, serverFirst, nonce, string(final))
	if !ok {
		return refuseStart(stateBadPassword, "use the password that the endpoint printed; it is good for this endpoint alone",
			"password authentication failed for user %q", printable(user))
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
func clientFirst(body []byte, secured bool) (gs2, bare string, err error) {
	c := cursor{b: body}
	name := string(c.text())
	size := int(int32(c.uint32()))
	if c.bad || size != len(c.b) {
		return "", "", violated("malformed SASLInitialResponse")
	}
	plus := name == mechanismPlus && secured
	if name != mechanism && !plus {
		return "", "", refuseStart(stateNoAuth, "channel binding needs TLS: use sslmode=require", "SASL mechanism %q is not offered", printable(name))
	}
	s := string(c.b)
	flag, rest, ok := strings.Cut(s, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	known := flag == "n" || flag == "y" && !secured // "y" says that no binding was offered: somebody took it out on the way
	if plus {
		known = flag == bindingFlag
	}
	if !ok || !ok2 || !known || authzid != "" || !strings.HasPrefix(bare, "n=") {
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
func clientFinal(v *api.Verifier, bound []byte, bare, serverFirst, nonce, final string) (string, bool) {
	i := strings.LastIndex(final, ",p=")
	if i < 0 {
		return "", false
	}
	without := final[:i]
	proof, err := base64.StdEncoding.DecodeString(final[i+3:])
	if err != nil || len(proof) != sha256.Size {
		return "", false
	}
	want := "c=" + base64.StdEncoding.EncodeToString(bound) + ",r=" + nonce
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
