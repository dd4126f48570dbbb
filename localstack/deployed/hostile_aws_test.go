//go:build aws

package deployed

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/token"
)

// intruder has what a thief could have: the agent's key, or alice's key and token, and a way to the functions. What the one signed is of no use
// anywhere but where it was signed for.
type intruder struct {
	*world
	http *http.Client
	cert tls.Certificate
	as   state.Login
}

func (w *world) intruder(t *testing.T) intruder {
	t.Helper()
	dir, err := state.Open(w.home, "")
	if err != nil {
		t.Fatal(err)
	}
	as, err := dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.dir, "system", "agent", "agent.pem")
	cert, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	b, err := os.ReadFile(w.Roots)
	if err != nil || !roots.AppendCertsFromPEM(b) {
		t.Fatal("roots", err)
	}
	proxy, err := url.Parse("http://" + w.Door())
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(c.CloseIdleConnections)
	return intruder{world: w, http: c, cert: cert, as: as}
}

// send says what came back: the status, and the code where it is an answer of ours.
func (i intruder) send(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	resp, err := i.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e api.Error
	_ = json.Unmarshal(b, &e) // an answer of another shape has no code
	return resp.StatusCode, e.Code
}

func (i intruder) request(t *testing.T, method, at string, body []byte) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (i intruder) at(output, path string) string {
	return strings.TrimSuffix(i.Outputs[output], "/") + path
}

func (w *world) testStolenSignature(t *testing.T) {
	i := w.intruder(t)
	body, err := json.Marshal(api.ChangesRequest{Agent: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	key := i.cert.PrivateKey.(*ecdsa.PrivateKey)
	signed := func(method, at string, body []byte, when time.Time) *http.Request {
		r := i.request(t, method, at, body)
		if err := token.SignAgent(r, body, i.cert.Leaf, key, when); err != nil {
			t.Fatal(err)
		}
		return r
	}
	changes := i.at("ChangesUrl", api.PathChanges)
	fresh := func() *http.Request { return signed(http.MethodPost, changes, body, time.Now()) }
	if status, code := i.send(t, fresh()); status != 200 {
		t.Fatalf("what the agent asks itself: %d %s", status, code)
	}
	other, err := json.Marshal(api.ChangesRequest{Agent: "other"})
	if err != nil {
		t.Fatal(err)
	}
	moved := func(output, path string) *http.Request {
		r := fresh()
		to := i.request(t, http.MethodPost, i.at(output, path), body)
		to.Header = r.Header
		return to
	}
	edited := func(edit func(r *http.Request)) *http.Request { r := fresh(); edit(r); return r }
	for name, r := range map[string]*http.Request{
		"unsigned":                 i.request(t, http.MethodPost, changes, body),
		"at another function":      moved("DecideUrl", api.PathChanges),
		"for another path":         moved("DecideUrl", api.PathCheck),
		"for another path, record": moved("RecordUrl", api.PathRecord),
		"a minute old":             signed(http.MethodPost, changes, body, time.Now().Add(-2*token.Window)),
		"of the future":            signed(http.MethodPost, changes, body, time.Now().Add(2*token.Window)),
		"by another method":        signed(http.MethodPut, changes, body, time.Now()),
		"for another agent":        signed(http.MethodPost, changes, other, time.Now()),
		"with a query":             edited(func(r *http.Request) { r.URL.RawQuery = "a=1" }),
		"with another body": edited(func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(other)), int64(len(other))
		}),
		"with a space behind the body": edited(func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body)+" ")), int64(len(body)+1)
		}),
		"with two digests":      edited(func(r *http.Request) { r.Header.Add("Content-Digest", r.Header.Get("Content-Digest")) }),
		"with two certificates": edited(func(r *http.Request) { r.Header.Add(token.HeaderCertificate, r.Header.Get(token.HeaderCertificate)) }),
		"with two signatures":   edited(func(r *http.Request) { r.Header.Set("Signature", r.Header.Get("Signature")+", other=:AA==:") }),
		"with more said to be signed": edited(func(r *http.Request) {
			r.Header.Set("Signature-Input", strings.Replace(r.Header.Get("Signature-Input"), `("@method"`, `("@authority" "@method"`, 1))
		}),
		"with nothing said to be signed": edited(func(r *http.Request) { r.Header.Set("Signature-Input", `sallyport=();created=1`) }),
	} {
		if status, code := i.send(t, r); status < 400 || status >= 500 {
			t.Errorf("a signature %s: %d %s", name, status, code)
		}
	}
	deep := []byte(strings.Repeat("[", 1<<20))
	for name, r := range map[string]*http.Request{"deep": signed(http.MethodPost, changes, deep, time.Now()), "empty": signed(http.MethodPost, changes, nil, time.Now()),
		"no UTF-8": signed(http.MethodPost, changes, []byte{'"', 0xff, 0, '"'}, time.Now())} {
		if status, code := i.send(t, r); status < 400 || status >= 500 {
			t.Errorf("a body that is %s: %d %s", name, status, code)
		}
	}
}

func (w *world) testStolenProof(t *testing.T) {
	w.good(t, w.home, "", "whoami") // renews the token where it has ended
	i := w.intruder(t)
	whoami, sessions := i.at("TokenUrl", api.PathWhoami), i.at("ApproveUrl", api.PathSessions)
	proof := func(method, at string, when time.Time) string {
		p, err := token.SignDPoP(i.as.Key, method, at, i.as.Token.Reveal(), when)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	asked := func(at, proof string) *http.Request {
		r := i.request(t, http.MethodGet, at, nil)
		r.Header.Set("Authorization", token.SchemeDPoP+" "+i.as.Token.Reveal())
		r.Header.Set(token.HeaderDPoP, proof)
		return r
	}
	once := proof(http.MethodGet, whoami, time.Now())
	if status, code := i.send(t, asked(whoami, once)); status != 200 {
		t.Fatalf("what alice asks herself: %d %s", status, code)
	}
	edited := func(r *http.Request, edit func(h http.Header)) *http.Request { edit(r.Header); return r }
	for name, r := range map[string]*http.Request{
		"again":                asked(whoami, once),
		"for another function": asked(sessions, proof(http.MethodGet, whoami, time.Now())),
		"for another path":     asked(whoami, proof(http.MethodGet, i.at("TokenUrl", api.PathTicket), time.Now())),
		"for another host":     asked(whoami, proof(http.MethodGet, "https://evil.test"+api.PathWhoami, time.Now())),
		"for a host that says so": edited(asked(whoami, proof(http.MethodGet, "https://evil.test"+api.PathWhoami, time.Now())), func(h http.Header) {
			h.Set("X-Forwarded-Host", "evil.test")
			h.Set("Forwarded", "host=evil.test;proto=https")
			h.Set("X-Original-Host", "evil.test")
		}),
		"for another method":           asked(whoami, proof(http.MethodPost, whoami, time.Now())),
		"that is old":                  asked(whoami, proof(http.MethodGet, whoami, time.Now().Add(-2*token.Window))),
		"of another name for the host": asked(whoami, proof(http.MethodGet, strings.Replace(whoami, "https://", "https://x@", 1), time.Now())),
		"twice":                        edited(asked(whoami, proof(http.MethodGet, whoami, time.Now())), func(h http.Header) { h.Add(token.HeaderDPoP, proof(http.MethodGet, whoami, time.Now())) }),
		"with a bearer":                edited(asked(whoami, proof(http.MethodGet, whoami, time.Now())), func(h http.Header) { h.Set("Authorization", "Bearer "+i.as.Token.Reveal()) }),
		"with the token in a cookie":   edited(asked(whoami, proof(http.MethodGet, whoami, time.Now())), func(h http.Header) { h.Del("Authorization"); h.Set("Cookie", "Authorization="+i.as.Token.Reveal()) }),
		"where agents sign":            edited(asked(i.at("DecideUrl", api.PathCheck), proof(http.MethodPost, i.at("DecideUrl", api.PathCheck), time.Now())), func(http.Header) {}),
	} {
		if status, code := i.send(t, r); status < 400 || status >= 500 {
			t.Errorf("a proof %s: %d %s", name, status, code)
		}
	}
	// Who is asked for an administrator's or an auditor's answer says no to alice.
	join, err := json.Marshal(api.JoinRequest{Agent: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	r := i.request(t, http.MethodPost, i.at("EnrollUrl", api.PathJoin), join)
	r.Header.Set("Authorization", token.SchemeDPoP+" "+i.as.Token.Reveal())
	r.Header.Set(token.HeaderDPoP, proof(http.MethodPost, i.at("EnrollUrl", api.PathJoin), time.Now()))
	if status, code := i.send(t, r); status != http.StatusForbidden {
		t.Errorf("alice makes a join token: %d %s", status, code)
	}
}

// What comes by the Lambda API instead of a function URL is whatever the caller writes: no word of it stands for a signature.
func (w *world) testForgedEvents(t *testing.T) {
	physical, err := w.cloud.physical(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sigv4.New(sigv4.Config{Region: region, Getenv: func(name string) string {
		for _, v := range account {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	const root = `"authorizer":{"iam":{"accessKey":"AKIA","accountId":"000000000000","userArn":"arn:aws:iam::000000000000:root","userId":"0"}},"accountId":"000000000000","authentication":{}`
	event := func(path, method, more, body string) string {
		return `{"version":"2.0","routeKey":"$default","rawPath":"` + path + `","headers":{"content-type":"application/json","x-amz-security-token":"x"},"requestContext":{` + root +
			`,"domainName":"evil.test","http":{"method":"` + method + `","path":"` + path + `","sourceIp":"127.0.0.1"}},"body":` + body + more + `}`
	}
	for _, f := range []struct{ function, path, body string }{
		{"DecideFunction", api.PathCheck, `{"agent":"dev","asks":[]}`}, {"DecideFunction", api.PathOpen, `{}`}, {"ChangesFunction", api.PathChanges, `{"agent":"dev"}`},
		{"RecordFunction", api.PathRecord, `{"agent":"dev"}`}, {"EnrollFunction", api.PathJoin, `{"agent":"x","targets":["app"]}`}, {"EnrollFunction", api.PathRevokeAgent, `{"agent":"dev"}`},
		{"TokenFunction", api.PathRevoke, `{}`}, {"TokenFunction", api.PathTicket, `{}`}, {"ApproveFunction", "/approve/01JD0000000000000000000000", `verdict=approve`},
	} {
		quoted, err := json.Marshal(f.body)
		if err != nil {
			t.Fatal(err)
		}
		events := map[string]string{
			"as root":   event(f.path, "POST", "", string(quoted)),
			"in base64": event(f.path, "POST", `,"isBase64Encoded":true`, `"`+base64.StdEncoding.EncodeToString([]byte(f.body))+`"`),
		}
		if f.path == api.PathCheck || strings.HasPrefix(f.path, "/approve/") { // the same adapter is before all of them
			maps.Copy(events, map[string]string{
				"not in base64":      event(f.path, "POST", `,"isBase64Encoded":true`, string(quoted)),
				"without a body":     event(f.path, "POST", "", "null"),
				"in lower case":      event(f.path, "post", "", string(quoted)),
				"up and down":        event("/x/.."+f.path, "POST", "", string(quoted)),
				"with two slashes":   event("/"+f.path, "POST", "", string(quoted)),
				"no event":           `{}`,
				"a list":             `{"Records":[{"eventName":"INSERT"}]}`,
				"a schedule":         `{"source":"aws.events"}`,
				"of API Gateway":     `{"httpMethod":"POST","path":"` + f.path + `","headers":{},"requestContext":{` + root + `},"body":` + string(quoted) + `}`,
				"with a host of two": strings.Replace(event(f.path, "POST", "", string(quoted)), `"evil.test"`, `"a@b"`, 1),
			})
		}
		for name, e := range events {
			status, said := w.event(t, signer, physical[f.function], e)
			if status < 300 || status >= 500 {
				t.Errorf("%s of %s, %s: %d %.200s", f.path, f.function, name, status, said)
			}
		}
	}
	w.works(t, "after forged events")
}

// event invokes a function by the Lambda API, and says what it would have answered: 502 where it ended with an error.
func (w *world) event(t *testing.T, signer *sigv4.Signer, function, event string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cloud.endpoint+"/2015-03-31/functions/"+function+"/invocations", strings.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	if err := signer.Sign(ctx, r, []byte(event)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("invoke: %d %v: %.200s", resp.StatusCode, err, b)
	}
	if resp.Header.Get("X-Amz-Function-Error") != "" {
		return 502, string(b)
	}
	var answer struct{ StatusCode int }
	if err := json.Unmarshal(b, &answer); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return answer.StatusCode, string(b)
}
