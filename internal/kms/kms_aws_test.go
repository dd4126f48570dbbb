//go:build aws

package kms_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/kms"
	"github.com/sallyport/sallyport/localstack/localaws"
)

var server string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	s, err := localaws.MiniStack(context.Background())
	if err != nil {
		return 1, err
	}
	defer s.Close()
	server = s.URL
	before := goleak.IgnoreCurrent()
	if code := m.Run(); code != 0 {
		return code, nil
	}
	return 0, goleak.Find(before)
}

func TestSigner(t *testing.T) {
	client, err := kms.NewClient(localaws.Config(server))
	if err != nil {
		t.Fatal(err)
	}
	key, err := localaws.Key(t.Context(), server, true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := kms.NewSigner(t.Context(), client, key)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("checkpoint"))
	sig, err := s.Sign(t.Context(), digest[:])
	if err != nil || !ecdsa.VerifyASN1(s.Public(), digest[:], sig) {
		t.Fatalf("%x %v", sig, err)
	}
	if _, err := s.Sign(t.Context(), []byte("not a digest")); err == nil {
		t.Fatal("something else than a digest was signed")
	}
	again, err := kms.NewSigner(t.Context(), client, key)
	if err != nil || !again.Public().Equal(s.Public()) {
		t.Fatalf("another public key: %v", err)
	}
}

func TestOtherKeysAreRefused(t *testing.T) {
	client, err := kms.NewClient(localaws.Config(server))
	if err != nil {
		t.Fatal(err)
	}
	symmetric, err := localaws.Key(t.Context(), server, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{symmetric, "00000000-0000-0000-0000-000000000000"} {
		if _, err := kms.NewSigner(t.Context(), client, key); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
