package dir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func open(t *testing.T, path string) *dir.Dir {
	t.Helper()
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestBlobs(t *testing.T) {
	storetest.Blobs(t, func(t *testing.T) store.Blobs { return open(t, t.TempDir()) })
}

func TestHeads(t *testing.T) {
	storetest.Heads(t, func(t *testing.T) store.Heads { return open(t, t.TempDir()) })
}

func TestCrashLeftoversAreInvisible(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, ".tmp-1234"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	if names, err := d.List(t.Context(), ""); err != nil || len(names) != 0 {
		t.Fatalf("list: %q, %v", names, err)
	}
}

func TestLinksDoNotLeaveTheDirectory(t *testing.T) {
	path := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	if b, err := open(t, path).Open(t.Context(), "link"); err == nil {
		t.Fatalf("read %q through a link out of the directory", b)
	}
}
