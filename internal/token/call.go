package token

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/api"
)

// HeaderCertificate carries the calling agent's certificate: DER, base64.
const HeaderCertificate = "Sallyport-Certificate"

// Calls by agents are signed as RFC 9421 says, in one fixed profile: these components in this order, ecdsa-p256-sha256, one signature under
// one label. There is nothing to negotiate and so nothing to downgrade: a call that looks otherwise is refused.
const (
	callComponents = `("@method" "@path" "content-digest" "sallyport-certificate")`
	callLabel      = "sallyport"
	callTag        = `;alg="ecdsa-p256-sha256";tag="sallyport-agent"`
	maxCertificate = 8 << 10 // base64: an agent with MaxTargets names of full length
)

// SignAgent signs a call by an agent and sets the four headers that VerifyAgent wants. body is what the request will send.
func SignAgent(req *http.Request, body []byte, cert *x509.Certificate, key *ecdsa.PrivateKey, now time.Time) error {
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key == nil || !pub.Equal(&key.PublicKey) {
		return errors.New("sign call: the key is not the certificate's")
	}
	if req.URL.RawQuery != "" {
		return errors.New("sign call: a query is not part of what is signed")
	}
	digest, certificate := contentDigest(body), base64.StdEncoding.EncodeToString(cert.Raw)
	params := callParams(now.Unix(), Thumbprint(&key.PublicKey))
	hash := callHash(req.Method, req.URL.EscapedPath(), digest, certificate, params)
	der, err := ecdsa.SignASN1(rand.Reader, key, hash[:])
	if err != nil {
		return fmt.Errorf("sign call: %w", err)
	}
	sig, err := rawSignature(der)
	if err != nil {
		return fmt.Errorf("sign call: %w", err)
	}
	req.Header.Set("Content-Digest", digest)
	req.Header.Set(HeaderCertificate, certificate)
	req.Header.Set("Signature-Input", callLabel+"="+params)
	req.Header.Set("Signature", callLabel+"=:"+base64.StdEncoding.EncodeToString(sig)+":")
	return nil
}

// VerifyAgent verifies a call by an agent: signed within the Window, over this method, path and body, by the key of a certificate that
// this CA signed and that has not expired. Errors are of kind api.ErrLogin. A call can be sent again within the Window, which
// is why everything an agent may ask is idempotent.
func VerifyAgent(r *http.Request, body []byte, ca *x509.Certificate, now time.Time) (Agent, error) {
	a, digest, err := verifyAgent(r, ca, now)
	if err == nil {
		err = sameBody(digest, body)
	}
	if err != nil {
		return Agent{}, refuseAgent(err)
	}
	return a, nil
}

// enrollHint is what to do about an agent that is not known any more.
const enrollHint = "make a new join token (sallyport agent enroll NAME), give it to the agent as join_token, and restart the agent"

// Refusals of an agent's call that are not about its signature.
var (
	errCallClock   = fmt.Errorf("its time is more than %s from ours: set the clock", Window)
	errCertificate = errors.New("the certificate has expired, or is not valid yet")
)

func refuseAgent(err error) error {
	e := api.Because(api.ErrLogin, enrollHint, "agent's call: %v", err)
	switch {
	case errors.Is(err, errCallClock):
		e.Hint = "set the clock of the agent's machine"
		return e.By(api.RuleClock)
	case errors.Is(err, errCertificate):
		return e.By(api.RuleAgentExpired)
	}
	return e.By(api.RuleAgentSignature)
}

// sameBody holds a body against the digest that was signed.
func sameBody(digest string, body []byte) error {
	if subtle.ConstantTimeCompare([]byte(digest), []byte(contentDigest(body))) != 1 {
		return errors.New("the body is not the one that was signed")
	}
	return nil
}

// verifyAgent verifies everything but the body, which the signature covers by its digest alone: strangers are refused before a byte of
// it is read.
func verifyAgent(r *http.Request, ca *x509.Certificate, now time.Time) (a Agent, digest string, err error) {
	var h [4]string
	for i, name := range []string{"Content-Digest", HeaderCertificate, "Signature-Input", "Signature"} {
		vs := r.Header.Values(name)
		if len(vs) != 1 {
			return Agent{}, "", fmt.Errorf("want exactly one header %s", name)
		}
		h[i] = vs[0]
	}
	digest, certificate, input, signature := h[0], h[1], h[2], h[3]
	if r.URL.RawQuery != "" {
		return Agent{}, "", errors.New("a query is not part of what is signed")
	}
	created, keyID, err := parseParams(input)
	if err != nil {
		return Agent{}, "", err
	}
	if !within(created, now) {
		return Agent{}, "", errCallClock
	}
	a, err = callers.agent(certificate, ca, now)
	if err != nil {
		return Agent{}, "", err
	}
	if keyID != a.Thumbprint {
		return Agent{}, "", errors.New("keyid is not the certificate's key")
	}
	sig, err := parseSignature(signature)
	if err != nil {
		return Agent{}, "", err
	}
	hash := callHash(r.Method, r.URL.EscapedPath(), digest, certificate, callParams(created, keyID))
	if !verifyRaw(a.Key, hash[:], sig) {
		return Agent{}, "", errors.New("the signature does not hold")
	}
	return a, digest, nil
}

// ReadAgent verifies the call, reads the body once, and decodes it strictly into v. A stranger's body is not read at all: it could be
// as large as api.MaxBody, and there may be many strangers.
func ReadAgent(r *http.Request, ca *x509.Certificate, now time.Time, v any) (Agent, error) {
	a, digest, err := verifyAgent(r, ca, now)
	if err != nil {
		return Agent{}, refuseAgent(err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, api.MaxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return Agent{}, api.Because(api.ErrTooLarge, "", "body is over %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return Agent{}, api.Because(api.ErrBadRequest, "", "body: %v", err)
	}
	if err := sameBody(digest, body); err != nil {
		return Agent{}, refuseAgent(err)
	}
	if err := api.Bounded(body); err != nil {
		return Agent{}, err
	}
	if err := strict(body, v); err != nil {
		return Agent{}, api.Because(api.ErrBadRequest, "", "body: %v", err)
	}
	return a, nil
}

// contentDigest is RFC 9530's header.
func contentDigest(body []byte) string {
	h := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(h[:]) + ":"
}

func callParams(created int64, keyID string) string {
	return callComponents + ";created=" + strconv.FormatInt(created, 10) + `;keyid="` + keyID + `"` + callTag
}

// parseParams reads Signature-Input of exactly our shape: what it returns, put through callParams, gives the same text again.
func parseParams(input string) (created int64, keyID string, err error) {
	bad := errors.New("header Signature-Input is not of the profile that agents use")
	rest, ok := strings.CutPrefix(input, callLabel+"="+callComponents+";created=")
	if !ok || len(input) > 512 {
		return 0, "", bad
	}
	seconds, rest, ok := strings.Cut(rest, `;keyid="`)
	if !ok {
		return 0, "", bad
	}
	created, err = strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return 0, "", bad
	}
	keyID, ok = strings.CutSuffix(rest, `"`+callTag)
	if !ok || !isThumbprint(keyID) || callLabel+"="+callParams(created, keyID) != input {
		return 0, "", bad
	}
	return created, keyID, nil
}

func parseSignature(s string) ([]byte, error) {
	s, ok := strings.CutPrefix(s, callLabel+"=:")
	s, ok2 := strings.CutSuffix(s, ":")
	sig, err := base64.StdEncoding.Strict().DecodeString(s)
	if !ok || !ok2 || err != nil || len(sig) != 64 {
		return nil, errors.New("header Signature is not of the profile that agents use")
	}
	return sig, nil
}

// callHash hashes the signature base of RFC 9421 section 2.5.
func callHash(method, path, digest, certificate, params string) [32]byte {
	if path == "" {
		path = "/" // section 2.2.6: an empty path is normalised
	}
	return sha256.Sum256([]byte(`"@method": ` + method + "\n" +
		`"@path": ` + path + "\n" +
		`"content-digest": ` + digest + "\n" +
		`"sallyport-certificate": ` + certificate + "\n" +
		`"@signature-params": ` + params))
}

// callers remembers the certificates whose chain was verified: a chain costs as much as the call's own signature. Expiry is looked at
// every time, and the CA is part of the key.
var callers = &known{agents: make(map[[32]byte]knownAgent)}

type known struct {
	mu     sync.Mutex
	agents map[[32]byte]knownAgent
}

type knownAgent struct {
	agent     Agent
	notBefore time.Time
}

// maxKnown bounds the cache: more agents than one broker serves at once. When full it starts anew.
const maxKnown = 4096

func (k *known) agent(certificate string, ca *x509.Certificate, now time.Time) (Agent, error) {
	if len(certificate) > maxCertificate || ca == nil {
		return Agent{}, errors.New("the certificate is too long, or there is no CA")
	}
	h := sha256.New()
	h.Write(ca.Raw) // DER tells its own length
	h.Write([]byte(certificate))
	id := [32]byte(h.Sum(nil))
	k.mu.Lock()
	found, ok := k.agents[id]
	k.mu.Unlock()
	if !ok {
		var err error
		if found, err = verifyChain(certificate, ca, now); err != nil {
			return Agent{}, err
		}
		k.mu.Lock()
		if len(k.agents) >= maxKnown {
			clear(k.agents)
		}
		k.agents[id] = found
		k.mu.Unlock()
	}
	if now.Before(found.notBefore) || !now.Before(found.agent.Expires) {
		return Agent{}, errCertificate
	}
	return found.agent, nil
}

func verifyChain(certificate string, ca *x509.Certificate, now time.Time) (knownAgent, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(certificate)
	if err != nil {
		return knownAgent{}, errors.New("the certificate is not base64")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return knownAgent{}, fmt.Errorf("the certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return knownAgent{}, fmt.Errorf("the certificate: %w", err)
	}
	a, err := ParseAgent(cert)
	if err != nil {
		return knownAgent{}, err
	}
	return knownAgent{agent: a, notBefore: cert.NotBefore}, nil
}
