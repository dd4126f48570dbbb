package endpoint

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// The socket of another user's program must not be made, by root, where that user could put a link in its place.
func TestAnotherOwnersSocketIsNotMadeWhereThatOwnerRules(t *testing.T) {
	runtime, err := os.MkdirTemp("/tmp", "r") // short: a socket's path has 103 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(runtime)
	uid := os.Geteuid()
	theirs := filepath.Join(runtime, strconv.Itoa(uid))
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := base(runtime, nil, 8); got != theirs {
		t.Fatalf("one's own socket lies in %s, not in %s: the rest proves nothing", got, theirs)
	}
	if got := base(runtime, &Owner{UID: uid, GID: os.Getegid()}, 8); got != "/tmp" {
		t.Errorf("another owner's socket would be made in %s", got)
	}
}
