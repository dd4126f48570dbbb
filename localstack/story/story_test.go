package story_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/localstack/story"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The same story that `make demo` plays, with the binaries that `make build` made.
func TestStory(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "sallyport-agent")); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	// A place of its own, so that what others make meanwhile is not counted. The second user passes through it.
	place, err := os.MkdirTemp("", "story-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(place); err != nil {
			t.Error(err)
		}
	}()
	if err := os.Chmod(place, 0o711); err != nil { //nolint:gosec // nothing can be listed in it
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", place)
	if err := story.Play(t.Context(), story.Config{Bin: bin, Out: t.Output()}); err != nil {
		t.Fatal(err)
	}
	if after := leftovers(t); len(after) > 0 {
		t.Errorf("left behind: %q", after)
	}
}

func leftovers(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "sallyport-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
