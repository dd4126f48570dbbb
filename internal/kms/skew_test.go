package kms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport/internal/kms"
)

// A clock that is off is made up for by the time that KMS answers with; a signature that is refused all the same is an error that says so.
func TestAClockThatIsOff(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	const ahead = 20 * time.Minute
	strict := false
	refused := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().Add(ahead)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || strict && strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".Sign") || now.Sub(signed).Abs() > 5*time.Minute {
			refused++
			w.Header().Set("X-Amzn-Errortype", "InvalidSignatureException")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"__type":"InvalidSignatureException","message":"Signature not yet current: %s is still earlier than %s"}`, r.Header.Get("X-Amz-Date"), now)
			return
		}
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".GetPublicKey") {
			_, _ = fmt.Fprintf(w, `{"KeySpec":"ECC_NIST_P256","KeyUsage":"SIGN_VERIFY","PublicKey":%q}`, base64.StdEncoding.EncodeToString(pub))
			return
		}
		var in struct{ Message []byte }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		sig, err := ecdsa.SignASN1(rand.Reader, key, in.Message)
		if err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprintf(w, `{"Signature":%q}`, base64.StdEncoding.EncodeToString(sig))
	}))
	defer server.Close()
	client, err := kms.NewClient(aws.Config{Region: "r", BaseEndpoint: &server.URL, HTTPClient: server.Client(), Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "s"}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	s, err := kms.NewSigner(t.Context(), client, "k")
	if err != nil {
		t.Fatalf("twenty minutes behind: %v", err)
	}
	digest := sha256.Sum256([]byte("x"))
	if _, err := s.Sign(t.Context(), digest[:]); err != nil {
		t.Errorf("twenty minutes behind: %v", err)
	}
	if refused == 0 {
		t.Error("KMS refused nothing: the test shows nothing")
	}
	strict = true
	if _, err := s.Sign(t.Context(), digest[:]); err == nil || !strings.Contains(err.Error(), "Signature not yet current") {
		t.Errorf("refused all the same: %v", err)
	}
}
