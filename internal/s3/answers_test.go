package s3_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport/internal/s3"
	"github.com/sallyport/sallyport/internal/store"
)

// answering is a bucket whose server answers as told; n counts from 1.
func answering(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int64)) *s3.Bucket {
	t.Helper()
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w, r, n.Add(1))
	}))
	t.Cleanup(server.Close)
	b, err := s3.New(s3.Config{Bucket: "b", PathStyle: true, AWS: aws.Config{Region: "r", BaseEndpoint: &server.URL, HTTPClient: server.Client(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "s"}, nil
		})}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>on purpose</Message></Error>")
}

func TestS3IsBusy(t *testing.T) {
	b := answering(t, func(w http.ResponseWriter, _ *http.Request, n int64) {
		if n < 3 {
			refuse(w, http.StatusServiceUnavailable, "SlowDown")
		}
	})
	if err := b.Create(t.Context(), "name", []byte("x")); err != nil {
		t.Errorf("busy for a while: %v", err)
	}
	b = answering(t, func(w http.ResponseWriter, _ *http.Request, _ int64) {
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	})
	if err := b.Create(t.Context(), "name", []byte("x")); err == nil || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "SlowDown") {
		t.Errorf("busy for good: %v", err)
	}
	if _, err := b.Open(t.Context(), "name"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("an object that nobody could look for: %v", err)
	}
	if err := b.Swap(t.Context(), "name", []byte("old"), []byte("new")); err == nil || errors.Is(err, store.ErrConflict) {
		t.Errorf("a head that nobody could read: %v", err)
	}
}

func TestS3SaysThatTheConditionDoesNotHold(t *testing.T) {
	there := "x"
	b := answering(t, func(w http.ResponseWriter, r *http.Request, _ int64) {
		switch {
		case r.Method == http.MethodPut:
			refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		case there == "":
			refuse(w, http.StatusNotFound, "NoSuchKey")
		default:
			_, _ = io.WriteString(w, there)
		}
	})
	if err := b.Create(t.Context(), "name", []byte("x")); err != nil {
		t.Errorf("equal bytes are there: %v", err)
	}
	there = "y"
	if err := b.Create(t.Context(), "name", []byte("x")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("other bytes are there: %v", err)
	}
	there = "" // refused, and yet nothing is there: neither made nor in the way
	if err := b.Create(t.Context(), "name", []byte("x")); err == nil || errors.Is(err, store.ErrConflict) {
		t.Errorf("nothing is there: %v", err)
	}
}
