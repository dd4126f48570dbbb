package sigv4_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sallyport/sallyport/internal/sigv4"
)

var at = time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)

// verify is AWS's side: the official signer must come to the same signature over what arrived, for the headers that are said to be signed.
func verify(r *http.Request, body []byte, secret string) error {
	auth := r.Header.Get("Authorization")
	var id, signed string
	for part := range strings.SplitSeq(strings.TrimPrefix(auth, "AWS4-HMAC-SHA256 "), ", ") {
		k, v, _ := strings.Cut(part, "=")
		switch k {
		case "Credential":
			id, _, _ = strings.Cut(v, "/")
			if scope := strings.TrimPrefix(v, id+"/"); scope != "20261125/eu-west-1/lambda/aws4_request" {
				return fmt.Errorf("scope %q", scope)
			}
		case "SignedHeaders":
			signed = v
		}
	}
	when, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return err
	}
	h := sha256.Sum256(body)
	again := &http.Request{Method: r.Method, URL: &url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Host: r.Host, Header: http.Header{}, ContentLength: int64(len(body))}
	for name := range strings.SplitSeq(signed, ";") {
		if name != "host" && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: id, SecretAccessKey: secret, SessionToken: r.Header.Get("X-Amz-Security-Token")}, again,
		hex.EncodeToString(h[:]), "lambda", "eu-west-1", when)
	if err != nil {
		return err
	}
	if again.Header.Get("Authorization") != auth {
		return fmt.Errorf("signature %q, want %q", auth, again.Header.Get("Authorization"))
	}
	return nil
}

func newRequest(t *testing.T, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://abc.lambda-url.eu-west-1.on.aws/decide/check", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Signature", "sallyport=:AAAA:")
	return r
}

func signer(t *testing.T, env map[string]string) (*sigv4.Signer, error) {
	t.Helper()
	return sigv4.New(sigv4.Config{Region: "eu-west-1", Getenv: func(k string) string { return env[k] }, Now: func() time.Time { return at }})
}

func TestSources(t *testing.T) {
	var calls atomic.Int64
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	tokenPath := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenPath, []byte("file-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		creds := map[string]string{"Code": "Success", "AccessKeyId": "AKID", "SecretAccessKey": "hidden", "Token": "session", "Expiration": expires}
		switch {
		case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			_, _ = io.WriteString(w, "imds")
		case strings.HasPrefix(r.URL.Path, "/latest/") && r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			_, _ = io.WriteString(w, "role")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/role":
			_ = json.NewEncoder(w).Encode(creds)
		case r.URL.Path == "/container" && (r.Header.Get("Authorization") == "env-token" || r.Header.Get("Authorization") == "file-token"):
			_ = json.NewEncoder(w).Encode(creds)
		case r.Method == http.MethodPost && r.URL.Path == "/":
			_ = r.ParseForm()
			if r.Form.Get("Action") != "AssumeRoleWithWebIdentity" || r.Form.Get("WebIdentityToken") != "file-token\n" && r.Form.Get("WebIdentityToken") != "file-token" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "text/xml")
			_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKID</AccessKeyId><SecretAccessKey>hidden</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, expires)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer s.Close()
	for name, env := range map[string]map[string]string{
		"environment":                {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_SESSION_TOKEN": "session"},
		"web identity":               {"AWS_WEB_IDENTITY_TOKEN_FILE": tokenPath, "AWS_ROLE_ARN": "arn:aws:iam::1:role/agent", "AWS_ENDPOINT_URL_STS": s.URL},
		"container":                  {"AWS_CONTAINER_CREDENTIALS_FULL_URI": s.URL + "/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "env-token"},
		"container, token in a file": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": s.URL + "/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": tokenPath},
		"instance":                   {"AWS_EC2_METADATA_SERVICE_ENDPOINT": s.URL},
	} {
		t.Run(name, func(t *testing.T) {
			sg, err := signer(t, env)
			if err != nil || !strings.HasPrefix(name, sg.Source()) {
				t.Fatal(err)
			}
			calls.Store(0)
			first := int64(0)
			for i := range 3 {
				body := fmt.Sprintf(`{"n":%d}`, i)
				r := newRequest(t, body)
				if err := sg.Sign(t.Context(), r, []byte(body)); err != nil {
					t.Fatal(err)
				}
				if err := verify(r, []byte(body), "hidden"); err != nil {
					t.Error(err)
				}
				if r.Header.Get("X-Amz-Security-Token") != "session" || !strings.Contains(r.Header.Get("Authorization"), ";signature;") && !strings.Contains(r.Header.Get("Authorization"), "signature") {
					t.Errorf("%v", r.Header)
				}
				for what, change := range map[string]func(*http.Request) []byte{
					"body":      func(*http.Request) []byte { return []byte("other") },
					"path":      func(r *http.Request) []byte { r.URL.Path = "/decide/open"; return []byte(body) },
					"host":      func(r *http.Request) []byte { r.Host = "evil.example"; return []byte(body) },
					"signature": func(r *http.Request) []byte { r.Header.Set("Signature", "sallyport=:BBBB:"); return []byte(body) },
				} {
					other := r.Clone(t.Context())
					if verify(other, change(other), "hidden") == nil {
						t.Errorf("another %s has the same signature", what)
					}
				}
				if i == 0 {
					first = calls.Load()
				}
			}
			if calls.Load() != first {
				t.Errorf("credentials were fetched again: %d calls, then %d", first, calls.Load())
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"half a key":               {"AWS_ACCESS_KEY_ID": "AKID"},
		"no role":                  {"AWS_WEB_IDENTITY_TOKEN_FILE": "/x"},
		"STS in the clear":         {"AWS_WEB_IDENTITY_TOKEN_FILE": "/x", "AWS_ROLE_ARN": "r", "AWS_ENDPOINT_URL_STS": "http://sts.example"},
		"credentials in the clear": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://creds.example/x"},
		"no path":                  {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "@evil.example/x"},
		"metadata from elsewhere":  {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://10.0.0.1"},
		"nothing":                  {"AWS_EC2_METADATA_DISABLED": "true"},
	} {
		if s, err := signer(t, env); err == nil {
			t.Errorf("%s: %s", name, s.Source())
		}
	}
	if _, err := sigv4.New(sigv4.Config{}); err == nil {
		t.Error("no region")
	}
	// Whoever gives no credentials leaves the request unsigned, and the call fails.
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	sg, err := signer(t, map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": s.URL})
	if err != nil {
		t.Fatal(err)
	}
	r := newRequest(t, "x")
	if err := sg.Sign(t.Context(), r, []byte("x")); err == nil || r.Header.Get("Authorization") != "" {
		t.Errorf("%v %v", err, r.Header)
	}
}

// The AWS CLI (1.46.3, `aws rds generate-db-auth-token`) made the expected token, with these credentials at this time.
func TestDatabaseToken(t *testing.T) {
	env := map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "AWS_SESSION_TOKEN": "token/with+signs==",
	}
	s, err := sigv4.New(sigv4.Config{Region: "eu-west-1", Getenv: func(k string) string { return env[k] }, Now: func() time.Time { return time.Date(2026, 11, 25, 12, 39, 46, 0, time.UTC) }})
	if err != nil {
		t.Fatal(err)
	}
	const endpoint = "db.example.eu-west-1.rds.amazonaws.com:5432"
	token, err := s.DatabaseToken(t.Context(), endpoint, "app user")
	if err != nil {
		t.Fatal(err)
	}
	want := endpoint + "/?Action=connect&DBUser=app%20user&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261125%2Feu-west-1%2Frds-db%2Faws4_request" +
		"&X-Amz-Date=20261125T123946Z&X-Amz-SignedHeaders=host&X-Amz-Expires=900&X-Amz-Security-Token=token%2Fwith%2Bsigns%3D%3D" +
		"&X-Amz-Signature=2d7c435dca743d5b1a7defd4667635c62031b67336d502dd118d5463a2c6924a"
	parts := func(s string) []string {
		p := strings.FieldsFunc(s, func(r rune) bool { return r == '?' || r == '&' })
		slices.Sort(p)
		return p
	}
	if got := token.Reveal(); !slices.Equal(parts(got), parts(want)) {
		t.Errorf("%s, want %s", got, want)
	}
	if strings.Contains(fmt.Sprintf("%v %+v", token, token), "Signature") {
		t.Error("a token is printed")
	}
	if _, err := s.DatabaseToken(t.Context(), "a b:1", "app"); err == nil {
		t.Error("an endpoint that is none")
	}
}
