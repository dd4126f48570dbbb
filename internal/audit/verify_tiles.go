package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// compareTiles holds every leaf against the sealed hash of its place and names what differs.
func (v *verifier) compareTiles(ctx context.Context) error {
	names, err := v.c.Blobs.List(ctx, TilePrefix)
	if err != nil {
		return fmt.Errorf("list tiles: %w", err)
	}
	if v.wholeLeaves() {
		return v.compareEachTile(ctx, names)
	}
	want := make([]tlog.Hash, 0, v.head.Size)
	for n := int64(0); n < v.head.Size; n += 1 << tileHeight {
		t := tlog.Tile{H: tileHeight, N: n >> tileHeight, W: int(min(v.head.Size-n, 1<<tileHeight))}
		b, err := v.c.Blobs.Open(ctx, tileName(t))
		if err != nil || len(b) != t.W*tlog.HashSize {
			v.problem(Problem{Code: CodeRemoved, Index: n, What: fmt.Sprintf("tile %s is not there whole", tileName(t))})
			b = make([]byte, t.W*tlog.HashSize)
		}
		for i := range t.W {
			want = append(want, tlog.Hash(b[i*tlog.HashSize:]))
		}
	}
	v.align(want)
	if err := v.recompute(want); err != nil {
		return err
	}
	return v.compareEachTile(ctx, names)
}

// wholeLeaves says whether the entries alone add up to the signed root: then they are what was sealed, whatever the tiles say.
func (v *verifier) wholeLeaves() bool {
	own := make([]tlog.Hash, len(v.leaves))
	for i, l := range v.leaves {
		if l.bad != nil {
			return false
		}
		own[i] = l.hash
	}
	if err := v.recompute(own); err != nil {
		return false
	}
	if root, err := v.treeHash(v.head.Size); err != nil || root != v.head.Root {
		return false
	}
	for _, h := range own {
		v.sealed[h] = true
	}
	return true
}

func (v *verifier) compareEachTile(ctx context.Context, names []string) error {
	for _, t := range tlog.NewTiles(tileHeight, 0, v.head.Size) {
		if name := tileName(t); !slices.Contains(names, name) {
			v.problem(Problem{Code: CodeRemoved, Index: -1, What: fmt.Sprintf("%s was removed", name)})
		}
	}
	for _, name := range names {
		b, err := v.c.Blobs.Open(ctx, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		v.compareTile(name, b)
	}
	return nil
}

// align walks leaves and sealed hashes side by side. A removed line shifts what follows within its segment, so the walk looks
// for the leaf's hash further on before it calls an entry altered.
func (v *verifier) align(want []tlog.Hash) {
	place := make(map[tlog.Hash]int64, len(want))
	for i, h := range want {
		place[h] = int64(i)
	}
	found := make([]*leaf, len(want))
	var strangers []leaf
	last := int64(-1) // place of the entry before: a removed line shifts those after it, but never past each other
	for i := range v.leaves {
		l := v.leaves[i]
		if errors.Is(l.bad, errMissing) {
			continue
		}
		if at, ok := place[l.hash]; ok && found[at] == nil {
			found[at] = &l
			if at < last {
				v.entryProblem(CodeAltered, at, l, "entry %d (%s, %s) stands behind entry %d: the order was altered after it was sealed", at, kindOf(l), idOf(l), last)
			}
			last = max(last, at)
			continue
		}
		strangers = append(strangers, l)
	}
	out := make([]leaf, len(want))
	for i, h := range want {
		if found[i] != nil {
			out[i] = *found[i]
			v.sealed[h] = true
			continue
		}
		out[i] = leaf{bad: errMissing}
		v.nameLoss(int64(i), h, &strangers)
	}
	for _, l := range strangers {
		v.entryProblem(CodeAltered, -1, l, "an entry that was never sealed stands among the sealed ones: %.80q", l.raw)
	}
	v.leaves = out
}

// nameLoss tells an altered entry from a removed one: an altered one has left a stranger where it was.
func (v *verifier) nameLoss(i int64, h tlog.Hash, strangers *[]leaf) {
	row, inTable := v.rows[h]
	at := slices.IndexFunc(*strangers, func(l leaf) bool {
		return !inTable || l.entry.ID == row.entry.ID || near(l.raw, row.raw)
	})
	if at >= 0 {
		l := (*strangers)[at]
		*strangers = slices.Delete(*strangers, at, at+1)
		if inTable {
			l = row
		}
		v.entryProblem(CodeAltered, i, l, "entry %d (%s, %s) was altered after it was sealed", i, kindOf(l), idOf(l))
		return
	}
	v.entryProblem(CodeRemoved, i, row, "entry %d (%s, %s) was removed after it was sealed", i, kindOf(row), idOf(row))
}

// near says that two lines of equal length differ in a few bytes: one was made from the other.
func near(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	n := 0
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n <= 16
}

func kindOf(l leaf) string {
	if l.entry.Kind == "" {
		return "kind unknown"
	}
	return string(l.entry.Kind)
}

func idOf(l leaf) string {
	if l.entry.ID == "" {
		return "id unknown"
	}
	return "id " + l.entry.ID
}

// recompute builds all hashes from the sealed leaf hashes; where a leaf is whole, its hash is its own.
func (v *verifier) recompute(want []tlog.Hash) error {
	v.hashes = make([]tlog.Hash, 0, 2*len(want))
	return v.grow(0, want)
}

// grow adds the hashes of leaves from place first on.
func (v *verifier) grow(first int64, want []tlog.Hash) error {
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, x := range at {
			out[i] = v.hashes[x]
		}
		return out, nil
	})
	for i, h := range want {
		hs, err := tlog.StoredHashesForRecordHash(first+int64(i), h, reader)
		if err != nil {
			return fmt.Errorf("recompute hashes: %w", err)
		}
		v.hashes = append(v.hashes, hs...)
	}
	return nil
}

func (v *verifier) treeHash(size int64) (tlog.Hash, error) {
	return tlog.TreeHash(size, tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, x := range at {
			if x >= int64(len(v.hashes)) {
				return nil, errors.New("beyond the log")
			}
			out[i] = v.hashes[x]
		}
		return out, nil
	}))
}

// compareTile holds one tile file, also a partial one of an earlier size, against the recomputed hashes.
func (v *verifier) compareTile(name string, b []byte) {
	t, err := tlog.ParseTilePath("tile/" + fmt.Sprint(tileHeight) + "/" + strings.TrimPrefix(name, TilePrefix))
	if err != nil || tileName(t) != name {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: fmt.Sprintf("%s is not a tile of the log", name)})
		return
	}
	if (t.N<<tileHeight+int64(t.W))<<(uint(t.L)*tileHeight) > v.head.Size {
		return // of a sealing that was never committed
	}
	if len(b) != t.W*tlog.HashSize {
		v.problem(Problem{Code: CodeAltered, Index: -1, What: fmt.Sprintf("%s has %d bytes", name, len(b))})
		return
	}
	for i := range t.W {
		h := v.hashes[tlog.StoredHashIndex(t.L*tileHeight, t.N<<tileHeight+int64(i))]
		if h != tlog.Hash(b[i*tlog.HashSize:]) {
			v.problem(Problem{Code: CodeAltered, Index: -1, What: fmt.Sprintf("%s: hash %d was altered", name, i)})
		}
	}
}
