package audit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport/sallyport/internal/store"
)

// Checkpoint is the signed head of the log (C2SP tlog-checkpoint): how many entries there are, and the hash over all of them.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
	Time   time.Time // when it was signed: an extension line, covered by the signature
}

// HeadKey is where the committed head of the log lies in store.Registry.
var HeadKey = store.Key{PK: "seal", SK: "head"}

// Head is the committed state of the log: what a checkpoint may be signed for.
type Head struct {
	Size   int64     `json:"size"`
	Root   tlog.Hash `json:"root"`
	Cursor string    `json:"cursor"` // of the feed: everything up to it is in the log
}

// keyType is our ECDSA P-256 with SHA-256 in a signed note. C2SP signed-note keeps 0xff for types without a number of their own.
const keyType = "\xffsallyport-ecdsa-p256-sha256\x00"

const timePrefix = "time "

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n%s%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]), timePrefix, c.Time.UTC().Format(time.RFC3339Nano))
}

// SignCheckpoint returns the signed note.
func SignCheckpoint(ctx context.Context, c Checkpoint, key store.Signer) ([]byte, error) {
	name, hash, err := keyName(c.Origin, key.Public())
	if err != nil {
		return nil, err
	}
	b, err := note.Sign(&note.Note{Text: c.text()}, noteSigner{ctx, name, hash, key})
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return b, nil
}

// OpenCheckpoint verifies a signed note and reads it. verifier is the line that VerifierKey made.
func OpenCheckpoint(b []byte, verifier string) (Checkpoint, error) {
	v, err := parseVerifier(verifier)
	if err != nil {
		return Checkpoint{}, err
	}
	n, err := note.Open(b, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint signature: %w", err)
	}
	// Only what we sign may be there: an unverified second signature line could otherwise be changed unnoticed.
	if len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 {
		return Checkpoint{}, errors.New("checkpoint signature: want exactly one")
	}
	// Package note takes any spelling of the signature; a byte that changes nothing when it is decoded has been changed all the same.
	if _, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint signature: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.name {
		return Checkpoint{}, fmt.Errorf("checkpoint origin %q is not the key's %q", c.Origin, v.name)
	}
	return c, nil
}

// ReadCheckpoint reads a signed note without verifying it: for who trusts the place that it lies in, or asks nothing of it but how far the
// log goes.
func ReadCheckpoint(b []byte) (Checkpoint, error) {
	_, err := note.Open(b, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return parseCheckpoint(unverified.Note.Text)
}

func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 5 || lines[4] != "" {
		return Checkpoint{}, errors.New("checkpoint: want origin, size, root and time")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("checkpoint: size %q", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, errors.New("checkpoint: root hash")
	}
	stamp, ok := strings.CutPrefix(lines[3], timePrefix)
	if !ok {
		return Checkpoint{}, errors.New("checkpoint: time")
	}
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: time: %w", err)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root), Time: at}, nil
}

// VerifierKey is the line that auditors keep: origin, key id and public key (C2SP signed-note verifier key).
func VerifierKey(origin string, pub *ecdsa.PublicKey) (string, error) {
	_, hash, err := keyName(origin, pub)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("verifier key: %w", err)
	}
	return fmt.Sprintf("%s+%08x+%s", origin, hash, base64.StdEncoding.EncodeToString(append([]byte(keyType), der...))), nil
}

// keyName is the origin and the key's id: SHA-256 over name, newline, type and key, the first four bytes.
func keyName(origin string, pub *ecdsa.PublicKey) (string, uint32, error) {
	if origin == "" || strings.ContainsAny(origin, "+ \t\r\n") {
		return "", 0, fmt.Errorf("log origin %q: want a name without spaces and '+'", origin)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", 0, fmt.Errorf("log key: %w", err)
	}
	h := sha256.Sum256(append([]byte(origin+"\n"+keyType), der...))
	return origin, binary.BigEndian.Uint32(h[:4]), nil
}

type noteSigner struct {
	ctx  context.Context // note.Signer has no place for it; lives for one Sign
	name string
	hash uint32
	key  store.Signer
}

func (s noteSigner) Name() string    { return s.name }
func (s noteSigner) KeyHash() uint32 { return s.hash }
func (s noteSigner) Sign(msg []byte) ([]byte, error) {
	d := sha256.Sum256(msg)
	return s.key.Sign(s.ctx, d[:])
}

type noteVerifier struct {
	name string
	hash uint32
	key  *ecdsa.PublicKey
}

func (v noteVerifier) Name() string    { return v.name }
func (v noteVerifier) KeyHash() uint32 { return v.hash }
func (v noteVerifier) Verify(msg, sig []byte) bool {
	d := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(v.key, d[:], sig)
}

func parseVerifier(line string) (noteVerifier, error) {
	bad := errors.New("log key: want ORIGIN+ID+KEY as the log's log.pub has it")
	name, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "+")
	id, key, ok2 := strings.Cut(rest, "+")
	hash, err := hex.DecodeString(id)
	if !ok || !ok2 || err != nil || len(hash) != 4 {
		return noteVerifier{}, bad
	}
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil {
		return noteVerifier{}, bad
	}
	der, ok := strings.CutPrefix(string(b), keyType)
	if !ok {
		return noteVerifier{}, bad
	}
	parsed, err := x509.ParsePKIXPublicKey([]byte(der))
	if err != nil {
		return noteVerifier{}, fmt.Errorf("log key: %w", err)
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return noteVerifier{}, bad
	}
	_, want, err := keyName(name, pub)
	if err != nil {
		return noteVerifier{}, err
	}
	if want != binary.BigEndian.Uint32(hash) {
		return noteVerifier{}, bad
	}
	return noteVerifier{name: name, hash: want, key: pub}, nil
}
