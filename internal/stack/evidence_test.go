package stack

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/store"
)

// bucket is a store whose names may be anything, as S3's.
type bucket map[string]string

func (b bucket) Create(context.Context, string, []byte) error       { return store.ErrConflict }
func (b bucket) Swap(context.Context, string, []byte, []byte) error { return store.ErrConflict }
func (b bucket) Load(ctx context.Context, name string) ([]byte, error) {
	return b.Open(ctx, name)
}

func (b bucket) Open(_ context.Context, name string) ([]byte, error) {
	v, ok := b[name]
	switch {
	case v == "huge":
		return nil, store.ErrTooLarge
	case !ok:
		return nil, store.ErrNotFound
	}
	return []byte(v), nil
}

func (b bucket) List(_ context.Context, prefix string) (names []string, err error) {
	for name := range b {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Who may write to the bucket and delete nothing cannot keep the log from being fetched: not by a name that no directory takes, not by one that is a
// directory where ours is a file, not by size.
func TestNamesOfOthersDoNotKeepTheEvidence(t *testing.T) {
	id := "01M8922A4EH3ZZ27Q4DAGY9S5V"
	own := []string{audit.SegmentName(0), "tile/0/000", "tile/0/000.p/31", "tile/0/x001/234.p/8", "tile/1/000.p/1", audit.RecordingName("01M8922A4EH3ZZ27Q4DAGY9S5V", "01M8922A4EH3ZZ27Q4DAGY9S5V", 999_999),
		audit.BodyName("01M8922A4EH3ZZ27Q4DAGY9S5V", "01M8922A4EH3ZZ27Q4DAGY9S5V")}
	strange := []string{"recordings/", "recordings//x", "recordings/../checkpoint", audit.SegmentName(0) + "/x", audit.RecordingName("01M8922A4EH3ZZ27Q4DAGY9S5V", "01M8922A4EH3ZZ27Q4DAGY9S5V", 999_999) + "/x",
		"bodies/" + id, "bodies/" + id + "/" + strings.Repeat("x", 600), "entries/\x1b[2J", "tile/", "tile/0/000/x"}
	from := bucket{"checkpoint": "head", audit.SegmentName(4096): "huge"}
	for _, n := range append(own, strange...) {
		from[n] = n
	}
	to, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = to.Close() }()
	if _, err := copyEvidence(t.Context(), to, to, to); err == nil || !strings.Contains(err.Error(), "nothing was sealed yet") {
		t.Errorf("of a new stack: %v", err)
	}
	c, err := copyEvidence(t.Context(), from, to, to)
	if err != nil || c.Objects != len(own) || len(c.Strange) != len(strange)+1 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, n := range own {
		if b, err := to.Open(t.Context(), n); err != nil || string(b) != n {
			t.Errorf("%s: %q, %v", n, b, err)
		}
	}
	if b, err := to.Load(t.Context(), "checkpoint"); err != nil || string(b) != "head" {
		t.Errorf("%q, %v", b, err)
	}
}
