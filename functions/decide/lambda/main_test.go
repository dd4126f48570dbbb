package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/stack"
)

// What is missing is named, before anybody is called.
func TestHandlerNamesWhatIsMissing(t *testing.T) {
	all := map[string]string{"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
		stack.TableRegistry: "r", stack.BundleBucket: "b", stack.EvidenceBucket: "e", stack.KeyToken: "k", stack.KeyState: "k", stack.Console: "https://c.test", stack.URL: "https://b.test"}
	start := func(without string) error {
		_, err := handler(t.Context(), func(k string) string {
			if k == without {
				return ""
			}
			return all[k]
		}, slog.New(slog.DiscardHandler))
		return err
	}
	for _, name := range []string{"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", stack.BundleBucket, stack.EvidenceBucket} {
		if err := start(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if err := start(""); err == nil || !strings.Contains(err.Error(), stack.KeyToken) {
		t.Errorf("with nobody at the endpoint: %v", err)
	}
}
