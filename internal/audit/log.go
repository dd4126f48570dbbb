package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport/sallyport/internal/store"
)

// The log as blobs. Entries lie in segments, one per sealing, JSON lines that SQL engines read as they are; the hashes lie in
// C2SP tiles (https://c2sp.org/tlog-tiles), full ones and the partial ones of every sealed size.
//
//	entries/000000000000001f.jsonl   entries from index 0x1f on, until the next segment
//	tile/0/000, tile/0/000.p/31, tile/1/000 …
//	checkpoint                       the signed head
const (
	SegmentPrefix  = "entries/"
	TilePrefix     = "tile/"
	CheckpointName = "checkpoint"
	segmentSuffix  = ".jsonl"
	tileHeight     = 8
)

const idShape = `[0-7][0-9A-HJKMNP-TV-Z]{25}`

var ownName = regexp.MustCompile(`^(?:entries/[0-9a-f]{16}\.jsonl|tile/[0-9]/(?:x[0-9]{3}/)*[0-9]{3}(?:\.p/[0-9]{1,3})?|recordings/` + idShape + `/` + idShape + `/[0-9]{6}|bodies/` + idShape + `/` + idShape + `)$`)

// OwnName says whether a blob has a name that the broker gives. What else lies in a bucket is somebody else's, and proves nothing.
func OwnName(name string) bool { return ownName.MatchString(name) }

// MaxSegment is how many entries one sealing appends at the most.
const MaxSegment = 4096

// SegmentName is the blob that starts at index first.
func SegmentName(first int64) string {
	return fmt.Sprintf("%s%016x%s", SegmentPrefix, first, segmentSuffix)
}

func segmentFirst(name string) (int64, error) {
	s, ok := strings.CutPrefix(name, SegmentPrefix)
	s, ok2 := strings.CutSuffix(s, segmentSuffix)
	n, err := strconv.ParseInt(s, 16, 64)
	if !ok || !ok2 || err != nil || SegmentName(n) != name {
		return 0, fmt.Errorf("%s is not the name of a segment", name)
	}
	return n, nil
}

// Leaves are an item's entries as the log hashes them: the bytes as they were stored, one line each. What Decode would refuse is
// refused here too.
func Leaves(it store.Item) ([][]byte, error) {
	wrong := func(err error) error { return fmt.Errorf("decode audit item %s %s: %w", it.PK, it.SK, err) }
	d := json.NewDecoder(bytes.NewReader(it.Body))
	d.DisallowUnknownFields()
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, wrong(errors.Join(errors.New("not an array"), err))
	}
	var leaves [][]byte
	for d.More() {
		from := d.InputOffset()
		if err := d.Decode(new(Entry)); err != nil { // only what can be read again belongs into the log
			return nil, wrong(err)
		}
		raw := bytes.TrimLeft(it.Body[from:d.InputOffset()], ", \t\r\n")
		leaves = append(leaves, compact(raw))
	}
	if _, err := d.Token(); err != nil {
		return nil, wrong(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong(errors.New("something follows the entries"))
	}
	if len(leaves) == 0 {
		return nil, wrong(errors.New("no entries"))
	}
	return leaves, nil
}

// compact copies a JSON value, which has been read, without the blanks between its tokens: json.Compact would read it once more.
func compact(raw []byte) []byte {
	leaf := make([]byte, 0, len(raw))
	quoted := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\' && i+1 < len(raw):
			leaf = append(leaf, c)
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			continue
		}
		leaf = append(leaf, raw[i])
	}
	return leaf
}

// Segment joins leaves to the bytes of a segment.
func Segment(leaves [][]byte) []byte {
	var b bytes.Buffer
	for _, l := range leaves {
		b.Write(l)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// SplitSegment is the reverse of Segment. With an error it still returns the lines that it found.
func SplitSegment(b []byte) ([][]byte, error) {
	if len(b) == 0 {
		return nil, errors.New("segment is empty")
	}
	if b[len(b)-1] != '\n' {
		return bytes.Split(b, []byte("\n")), errors.New("segment does not end with a newline")
	}
	return bytes.Split(b[:len(b)-1], []byte("\n")), nil
}

// Tree is the log's Merkle tree over blobs, at a committed size.
type Tree struct {
	Blobs store.Blobs
	Size  int64
}

func tileName(t tlog.Tile) string {
	return TilePrefix + strings.TrimPrefix(t.Path(), "tile/"+strconv.Itoa(tileHeight)+"/")
}

// Append hashes new leaves onto the tree, writes every tile that the new size needs, and returns the new root. Nothing is
// committed by it: tiles are determined by their content, so that a repeated or abandoned Append harms nothing.
func (t Tree) Append(ctx context.Context, leaves [][]byte) (tlog.Hash, error) {
	fresh := map[int64]tlog.Hash{} // stored-hash index → hash, not yet in tiles
	read := func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		var old []int64
		for _, i := range at {
			if _, ok := fresh[i]; !ok {
				old = append(old, i)
			}
		}
		var have map[int64]tlog.Hash
		if len(old) > 0 {
			hs, err := t.stored(ctx, old)
			if err != nil {
				return nil, err
			}
			have = hs
		}
		for i, x := range at {
			if h, ok := fresh[x]; ok {
				out[i] = h
			} else {
				out[i] = have[x]
			}
		}
		return out, nil
	}
	reader := tlog.HashReaderFunc(read)
	size := t.Size
	for _, l := range leaves {
		hs, err := tlog.StoredHashes(size, l, reader)
		if err != nil {
			return tlog.Hash{}, fmt.Errorf("append to log: %w", err)
		}
		first := tlog.StoredHashIndex(0, size)
		for i, h := range hs {
			fresh[first+int64(i)] = h
		}
		size++
	}
	for _, tile := range tlog.NewTiles(tileHeight, t.Size, size) {
		data, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return tlog.Hash{}, fmt.Errorf("make %s: %w", tileName(tile), err)
		}
		if err := t.Blobs.Create(ctx, tileName(tile), data); err != nil {
			return tlog.Hash{}, fmt.Errorf("write %s: %w", tileName(tile), err)
		}
	}
	root, err := tlog.TreeHash(size, reader)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("hash of log: %w", err)
	}
	return root, nil
}

// stored reads hashes out of the tiles of the committed size.
func (t Tree) stored(ctx context.Context, at []int64) (map[int64]tlog.Hash, error) {
	out := make(map[int64]tlog.Hash, len(at))
	tiles := map[tlog.Tile][]byte{}
	for _, x := range at {
		tile := tlog.TileForIndex(tileHeight, x)
		// The widest tile at this size: partial ones of earlier sizes may exist too, but this one must.
		full := t.Size >> (uint(tile.L) * tileHeight)
		tile.W = int(min(full-tile.N<<tileHeight, 1<<tileHeight))
		if _, ok := tiles[tile]; !ok {
			b, err := t.Blobs.Open(ctx, tileName(tile))
			if err != nil {
				return nil, fmt.Errorf("read log tile: %w", err)
			}
			tiles[tile] = b
		}
		h, err := tlog.HashFromTile(tile, tiles[tile], x)
		if err != nil {
			return nil, fmt.Errorf("read log tile %s: %w", tileName(tile), err)
		}
		out[x] = h
	}
	return out, nil
}
