package record_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/recording"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func (w *world) chunk(c access.Command, index int, data string) api.Chunk {
	ch := api.Chunk{Session: c.Session, Command: c.ID, Seq: c.Seq, Index: index, Kind: api.RecordingCast, Time: w.Now(), Data: []byte(data)}
	if index == 0 {
		ch.Name = "a terminal"
	}
	return ch
}

func last(c api.Chunk) api.Chunk {
	c.Last, c.Reason = true, api.ReasonComplete
	return c
}

func (w *world) deliver(chunks ...api.Chunk) ([]api.RefusedChunk, error) {
	w.T.Helper()
	var out api.ChunksResponse
	err := w.agent.Call(w.handler, api.PathChunks, api.ChunksRequest{Agent: w.agent.Name, Chunks: chunks}, &out)
	return out.Refused, err
}

func (w *world) taken(chunks ...api.Chunk) {
	w.T.Helper()
	if refused, err := w.deliver(chunks...); err != nil || len(refused) > 0 {
		w.T.Fatalf("%+v, %v", refused, err)
	}
}

func (w *world) recorded() (out []audit.Entry) {
	for _, e := range w.Entries() {
		if e.Kind == audit.KindRecording {
			out = append(out, e)
		}
	}
	return out
}

func TestChunks(t *testing.T) {
	w := newWorld(t)
	c := w.decided(w.s, access.Allow)[0]
	a, b, z := w.chunk(c, 0, "one"), w.chunk(c, 1, "two"), last(w.chunk(c, 2, ""))
	w.taken(a)
	for range 2 { // at least once, in any cut
		w.taken(a, b)
		w.taken(b, z)
	}
	es := w.recorded()
	if len(es) != 3 {
		t.Fatalf("%d entries", len(es))
	}
	for i, want := range []string{"one", "two", ""} {
		r := es[i].Recording
		sealed, err := w.blobs.Open(context.Background(), audit.RecordingName(c.Session, c.ID, i))
		brokertest.Must(t, err)
		sum := sha256.Sum256(sealed)
		if r.Index != i || r.Bytes != len(want) || r.Stored != len(sealed) || r.SHA256 != hex.EncodeToString(sum[:]) || r.Last != (i == 2) || es[i].Seq != c.Seq || r.Command != c.ID {
			t.Errorf("entry %d: %+v", i, r)
		}
		if want != "" && bytes.Contains(sealed, []byte(want)) {
			t.Error("a chunk lies open")
		}
		p := recording.Place{Session: c.Session, Command: c.ID, Index: i, Last: i == 2, Reason: r.Reason}
		if plain, err := recording.Open(w.s.State.DataKey, p, sealed); err != nil || string(plain) != want {
			t.Errorf("chunk %d is %q, %v", i, plain, err)
		}
		p.Index++
		if _, err := recording.Open(w.s.State.DataKey, p, sealed); err == nil {
			t.Error("a chunk opens in another place")
		}
	}
	rec, _, err := recording.Get(context.Background(), w.Items, c.Session, c.ID)
	if err != nil || rec.Next != 3 || rec.Bytes != 6 || rec.Ended != api.ReasonComplete || rec.Name != "a terminal" {
		t.Errorf("%+v, %v", rec, err)
	}
}

func TestChunksRefused(t *testing.T) {
	for name, build := range map[string]func(w *world, c access.Command) []api.Chunk{
		"a gap":                     func(w *world, c access.Command) []api.Chunk { return []api.Chunk{w.chunk(c, 2, "x")} },
		"other bytes":               func(w *world, c access.Command) []api.Chunk { return []api.Chunk{w.chunk(c, 0, "other")} },
		"the last one made another": func(w *world, c access.Command) []api.Chunk { return []api.Chunk{last(w.chunk(c, 0, "one"))} },
		"after the last": func(w *world, c access.Command) []api.Chunk {
			w.taken(last(w.chunk(c, 1, "")))
			return []api.Chunk{w.chunk(c, 2, "x")}
		},
		"another kind": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Kind = api.RecordingFile
			return []api.Chunk{ch}
		},
		"an unknown kind": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Kind = "video"
			return []api.Chunk{ch}
		},
		"another sequence": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Seq++
			return []api.Chunk{ch}
		},
		"too large": func(w *world, c access.Command) []api.Chunk {
			return []api.Chunk{w.chunk(c, 1, strings.Repeat("x", api.MaxChunk+1))}
		},
		"empty":         func(w *world, c access.Command) []api.Chunk { return []api.Chunk{w.chunk(c, 1, "")} },
		"too many":      func(w *world, c access.Command) []api.Chunk { return []api.Chunk{w.chunk(c, api.MaxChunks, "x")} },
		"below nothing": func(w *world, c access.Command) []api.Chunk { return []api.Chunk{w.chunk(c, -1, "x")} },
		"a second name": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Name = "n"
			return []api.Chunk{ch}
		},
		"a control name": func(w *world, _ access.Command) []api.Chunk {
			ch := w.chunk(w.decided(w.s, access.Allow)[0], 0, "x")
			ch.Name = "\x1b]"
			return []api.Chunk{ch}
		},
		"a reason before the end": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Reason = api.ReasonComplete
			return []api.Chunk{ch}
		},
		"an unknown reason": func(w *world, c access.Command) []api.Chunk {
			ch := last(w.chunk(c, 1, "x"))
			ch.Reason = "bored"
			return []api.Chunk{ch}
		},
		"a denied command": func(w *world, _ access.Command) []api.Chunk {
			return []api.Chunk{w.chunk(w.decided(w.s, access.Deny)[0], 0, "x")}
		},
		"a held command": func(w *world, _ access.Command) []api.Chunk {
			return []api.Chunk{w.chunk(w.decided(w.s, access.Hold)[0], 0, "x")}
		},
		"an unknown command": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 0, "x")
			ch.Command = access.CommandID(w.ID())
			return []api.Chunk{ch}
		},
		"another agent's session": func(w *world, _ access.Command) []api.Chunk {
			return []api.Chunk{w.chunk(w.decided(w.Seed(w.Agent("agent-2", "app"), w.Login("bob"), "app"), access.Allow)[0], 0, "x")}
		},
		"another session's command": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Session = w.Seed(w.agent, w.Login("bob"), "app").State.Session
			return []api.Chunk{ch}
		},
		"a session with a path": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Session = "../../tile"
			return []api.Chunk{ch}
		},
		"a command with a path": func(w *world, c access.Command) []api.Chunk {
			ch := w.chunk(c, 1, "x")
			ch.Command = "../../tile"
			return []api.Chunk{ch}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.decided(w.s, access.Allow)[0]
			w.taken(w.chunk(c, 0, "one"))
			bad := build(w, c)
			before := len(w.recorded())
			good := w.chunk(w.decided(w.s, access.Allow)[0], 0, "good") // beside it: what is good arrives
			refused, err := w.deliver(append(bad, good)...)
			if err != nil || len(refused) != 1 || refused[0].Index != bad[0].Index || refused[0].Command != bad[0].Command || refused[0].Why == "" {
				t.Errorf("refused %+v, %v", refused, err)
			}
			if n := len(w.recorded()); n != before+1 {
				t.Errorf("%d entries, want %d", n, before+1)
			}
		})
	}
	w := newWorld(t)
	var out api.ChunksResponse
	if err := w.agent.Call(w.handler, api.PathChunks, api.ChunksRequest{Agent: "agent-2"}, &out); !errors.Is(err, api.ErrDenied) {
		t.Errorf("another agent's name: %v", err)
	}
	if _, err := w.deliver(make([]api.Chunk, api.MaxChunkBatch+1)...); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("too many chunks: %v", err)
	}
}

func TestTheSameChunkTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.decided(w.s, access.Allow)[0]
	for i := range 5 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if refused, err := w.deliver(w.chunk(c, i, "x")); err != nil || len(refused) > 0 {
					t.Errorf("%+v, %v", refused, err)
				}
			})
		}
		wg.Wait()
	}
	if n := len(w.recorded()); n != 5 {
		t.Errorf("%d entries", n)
	}
}

func TestChunkFaults(t *testing.T) {
	for _, op := range []string{"get", "create", "open", "transact"} {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			for n := 1; n <= 3; n++ {
				w := newWorld(t)
				c := w.decided(w.s, access.Allow)[0]
				all := []api.Chunk{w.chunk(c, 0, "one"), w.chunk(c, 1, "two"), last(w.chunk(c, 2, "three"))}
				w.Faults.Set(storetest.Nth(op, n, fault))
				_, err := w.deliver(all...)
				w.Faults.Set(nil)
				if err != nil && !errors.Is(err, api.ErrUnavailable) {
					t.Errorf("%s %d: %v", op, n, err)
				}
				w.taken(all...)
				w.proven()
			}
		}
	}
}

// verify seals what there is and verifies it, offline.
func (w *world) verify() audit.Report {
	w.T.Helper()
	signer := w.signer
	s, err := seal.New(seal.Config{Items: w.DB, Feed: w.DB, Blobs: w.dir, Heads: w.dir, Signer: signer, Origin: "sallyport.test/audit", Now: w.Now})
	brokertest.Must(w.T, err)
	_, err = s.Seal(context.Background())
	brokertest.Must(w.T, err)
	key, err := audit.VerifierKey("sallyport.test/audit", signer.Public())
	brokertest.Must(w.T, err)
	r, err := audit.Verify(context.Background(), audit.VerifyConfig{Blobs: w.dir, Heads: w.dir, Key: key})
	brokertest.Must(w.T, err)
	var rest []audit.Problem
	for _, p := range r.Problems {
		if p.Code != audit.CodeChain { // the world's sessions have no opening
			rest = append(rest, p)
		}
	}
	r.Problems = rest
	return r
}

func (w *world) proven() {
	w.T.Helper()
	if r := w.verify(); len(r.Problems) > 0 || r.Recordings != 1 || r.Running != 0 {
		w.T.Errorf("%d recordings, %d running: %+v", r.Recordings, r.Running, r.Problems)
	}
}

func TestVerifyNamesEveryTamper(t *testing.T) {
	for name, tt := range map[string]struct {
		tamper func(path func(i int) string) error
		index  int // of the chunk that is named
		says   string
	}{
		"a missing chunk":  {func(p func(int) string) error { return os.Remove(p(1)) }, 1, "chunk 1 is gone"},
		"a truncated tail": {func(p func(int) string) error { return os.Remove(p(3)) }, 3, "chunk 3 is gone"},
		"swapped chunks": {func(p func(int) string) error {
			return errors.Join(os.Rename(p(1), p(9)), os.Rename(p(2), p(1)), os.Rename(p(9), p(2)))
		}, 1, "put in its place"},
		"an edited byte": {func(p func(int) string) error {
			b, err := os.ReadFile(p(2))
			b[len(b)/2] ^= 1
			return errors.Join(err, os.WriteFile(p(2), b, 0o600))
		}, 2, "chunk 2 was altered"},
		"a shortened chunk": {func(p func(int) string) error { return os.Truncate(p(0), 10) }, 0, "chunk 0 was altered"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.decided(w.s, access.Allow)[0]
			w.taken(w.chunk(c, 0, "one"), w.chunk(c, 1, "two"), w.chunk(c, 2, "three"), last(w.chunk(c, 3, "four")))
			w.proven()
			brokertest.Must(t, tt.tamper(func(i int) string {
				return filepath.Join(w.path, filepath.FromSlash(audit.RecordingName(c.Session, c.ID, i)))
			}))
			r := w.verify()
			if len(r.Problems) == 0 || r.Problems[0].Code != audit.CodeRecording || r.Problems[0].Kind != audit.KindRecording ||
				!strings.Contains(r.Problems[0].What, tt.says) || !strings.Contains(r.Problems[0].What, string(c.ID)) {
				t.Errorf("%+v", r.Problems)
			}
		})
	}
}

// A recording whose end never came is told, and is no proof of anything beyond what is there.
func TestVerifyTellsOfRecordingsWithoutAnEnd(t *testing.T) {
	w := newWorld(t)
	c := w.decided(w.s, access.Allow)[0]
	w.taken(w.chunk(c, 0, "one"))
	r := w.verify()
	if r.Running != 1 || len(r.Problems) > 0 || !strings.Contains(strings.Join(r.NotProven, "\n"), string(c.ID)) {
		t.Errorf("%+v", r)
	}
	for _, reason := range []string{"lost", "the client left"} {
		w := newWorld(t)
		c := w.decided(w.s, access.Allow)[0]
		w.taken(w.chunk(c, 0, "one"))
		put, err := audit.Put(audit.Entry{V: 1, Kind: audit.KindClose, ID: w.ID(), Time: w.Now(), Session: c.Session, Seq: c.Seq, Note: map[string]string{"reason": reason}})
		brokertest.Must(t, err)
		brokertest.Must(t, w.DB.Put(context.Background(), put))
		w.Advance(2 * 60 * 60 * 1e9)
		r := w.verify()
		if got := len(r.Problems) > 0; got != (reason != "lost") {
			t.Errorf("closed as %q: %+v", reason, r.Problems)
		}
	}
}

func BenchmarkChunks(b *testing.B) {
	w := newWorld(b)
	c := w.decided(w.s, access.Allow)[0]
	data := strings.Repeat("x", api.MaxChunk)
	i := 0
	b.SetBytes(8 * api.MaxChunk)
	for b.Loop() {
		var chunks []api.Chunk
		for range 8 {
			chunks = append(chunks, w.chunk(c, i, data))
			i++
		}
		w.taken(chunks...)
	}
}
