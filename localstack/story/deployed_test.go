//go:build deploy

package story_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/localstack/deployed"
	"github.com/sallyport/sallyport/localstack/story"
)

// The same story on infra/template.yaml, with the functions held to their roles, and their calls to infra/calls.tsv.
func TestStoryOnMiniStack(t *testing.T) { onAWS(t, deployed.MiniStack) }

// The same story on LocalStack, which enforces no role.
func TestStoryOnLocalStack(t *testing.T) { onAWS(t, deployed.LocalStack) }

func onAWS(t *testing.T, emulator string) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// A place of its own, so that what others make meanwhile is not counted. The second user passes through it.
	place, err := os.MkdirTemp("", "deployed-")
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
	if err := story.Play(t.Context(), story.Config{Bin: filepath.Join(root, "bin"), Root: root, AWS: emulator, Out: t.Output()}); err != nil {
		t.Fatal(err)
	}
	if after := leftovers(t); len(after) > 0 {
		t.Errorf("left behind: %q", after)
	}
}
