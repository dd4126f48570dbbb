//go:build aws

package stack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dynamo"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/localstack/localaws"
)

// database has the tables, services the rest.
var database, services *localaws.Server

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if database, err = localaws.DynamoDB(context.Background()); err != nil {
		return 1, err
	}
	defer database.Close()
	if services, err = localaws.MiniStack(context.Background()); err != nil {
		return 1, err
	}
	defer services.Close()
	return m.Run(), nil
}

// deployment is what the template would make, as a function's environment.
func deployment(t *testing.T) map[string]string {
	t.Helper()
	ctx := context.Background()
	must := func(v string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	tables, err := localaws.Tables(ctx, database.URL)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"AWS_REGION": localaws.Region, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
		"AWS_ENDPOINT_URL": services.URL, "AWS_ENDPOINT_URL_DYNAMODB": database.URL,
		stack.TableGrants: tables[store.Grants], stack.TableApprovals: tables[store.Approvals],
		stack.TableRegistry: tables[store.Registry], stack.TableAudit: tables[store.Audit],
		stack.BundleBucket: must(localaws.Bucket(ctx, services.URL)), stack.EvidenceBucket: must(localaws.Bucket(ctx, services.URL)),
		stack.KeyToken: must(localaws.Key(ctx, services.URL, true)), stack.KeyCA: must(localaws.Key(ctx, services.URL, true)),
		stack.KeyCheckpoint: must(localaws.Key(ctx, services.URL, true)), stack.KeyState: must(localaws.Key(ctx, services.URL, false)),
		stack.Issuer: "sallyport:test", stack.Console: "https://console.test/", stack.Origin: "sallyport.test/audit",
		stack.OIDCIssuer: "https://idp.test", stack.OIDCClient: "client",
	}
}

func opened(t *testing.T, vars map[string]string) *stack.Stack {
	t.Helper()
	s := stack.Open(func(k string) string { return vars[k] })
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEveryFunctionSeesTheSame(t *testing.T) {
	vars := deployment(t)
	early := opened(t, vars)
	if early.CACertificate(t.Context()); early.Err() == nil {
		t.Fatal("a CA before there is one")
	}
	a, b := opened(t, vars), opened(t, vars)
	ca := a.CA(t.Context())
	issuer, _ := a.Issuer(t.Context())
	if err := errors.Join(a.Err(), b.Err()); err != nil {
		t.Fatal(err)
	}
	if cert := b.CACertificate(t.Context()); b.Err() != nil || !cert.Equal(ca.Cert()) {
		t.Fatalf("another CA: %v", b.Err())
	}
	if x, y := a.StateKey(t.Context()), b.StateKey(t.Context()); len(x) != 32 || !bytes.Equal(x, y) {
		t.Fatalf("another state key: %v %v", a.Err(), b.Err())
	}
	if v := b.Verifier(t.Context()); v == nil || issuer.Name() != "sallyport:test" || b.Console() != "https://console.test" {
		t.Fatalf("%v", b.Err())
	}
}

// world is the log on AWS, with a clock of its own.
type world struct {
	c     seal.Config
	items *dynamo.Tables
	key   string
	mu    sync.Mutex
	now   time.Time
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) pass(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

func newWorld(t *testing.T) *world {
	t.Helper()
	vars := deployment(t)
	w := &world{now: time.Date(2026, 1, 2, 23, 58, 30, 0, time.UTC)}
	var err error
	w.items, err = dynamo.New(dynamo.Config{AWS: localaws.Config(database.URL), Now: w.clock, Tables: map[string]string{
		store.Registry: vars[stack.TableRegistry], store.Audit: vars[stack.TableAudit]}})
	if err != nil {
		t.Fatal(err)
	}
	s := opened(t, vars)
	evidence := s.Evidence()
	w.c = seal.Config{Items: w.items, Feed: w.items, Blobs: evidence, Heads: evidence, Signer: s.Signer(t.Context(), stack.KeyCheckpoint), Origin: vars[stack.Origin]}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if w.key, err = audit.VerifierKey(w.c.Origin, w.c.Signer.Public()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) id() string {
	return ulid.MustNew(ulid.Timestamp(w.clock()), ulid.DefaultEntropy()).String()
}

func (w *world) put(t *testing.T, entries ...audit.Entry) {
	t.Helper()
	x, err := audit.Put(entries...)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.items.Put(t.Context(), x); err != nil {
		t.Fatal(err)
	}
}

// session stores n commands with their outcomes, some seconds apart; the last outcome comes an hour late.
func (w *world) session(t *testing.T, n int) {
	t.Helper()
	key, sid := make([]byte, 32), access.SessionID(w.id())
	w.put(t, audit.Entry{V: 1, Kind: audit.KindOpen, ID: string(sid), Time: w.clock(), Session: sid, Target: "app"})
	prev, last := audit.FirstLink(sid), audit.Entry{}
	for seq := uint64(1); seq <= uint64(n); seq++ {
		w.pass(17 * time.Second)
		c := access.Command{ID: access.CommandID(w.id()), Text: fmt.Sprintf("select %d", seq), Normalised: "select $1", Complete: true}
		digest := access.Digest(key, "app", c)
		body, err := audit.CommandOf(c, digest, key)
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, audit.Entry{V: 1, Kind: audit.KindCommand, ID: string(c.ID), Time: w.clock(), Session: sid, Seq: seq, Prev: prev, Target: "app",
			Command: body, Decision: &access.Decision{Command: c.ID, Seq: seq, Digest: digest, Outcome: access.Allow, Rule: "r"}})
		last = audit.Entry{V: 1, Kind: audit.KindOutcome, ID: string(c.ID), Time: w.clock(), Session: sid, Seq: seq, Result: &access.Result{Status: access.StatusOK}}
		if seq < uint64(n) {
			w.put(t, last)
		}
		prev = audit.Link(prev, c.ID, seq, digest)
	}
	w.put(t, audit.Entry{V: 1, Kind: audit.KindClose, ID: w.id(), Time: w.clock(), Session: sid, Seq: uint64(n), Prev: prev})
	w.pass(time.Hour)
	w.put(t, last)
}

func (w *world) seal(t *testing.T, c seal.Config) {
	t.Helper()
	s, err := seal.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal(t.Context()); err != nil && !errors.Is(err, storetest.ErrFault) {
		t.Fatal(err)
	}
}

func (w *world) verify(t *testing.T) audit.Report {
	t.Helper()
	r, err := audit.Verify(t.Context(), audit.VerifyConfig{Blobs: w.c.Blobs, Heads: w.c.Heads, Key: w.key, Rows: w.items})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheLogOnAWSIsProven(t *testing.T) {
	w := newWorld(t)
	w.seal(t, w.c)
	for range 3 {
		w.session(t, 9)
		w.seal(t, w.c) // in the midst of it: what is too young waits
		if r := w.verify(t); !r.OK {
			t.Fatalf("%+v", r.Problems)
		}
	}
	w.pass(2 * time.Minute)
	w.seal(t, w.c)
	if r := w.verify(t); !r.OK || r.Commands != 27 || r.Sessions != 3 || r.Unsealed != 0 || r.Unknown != 0 || r.Entries != 3*(1+9+9+1) {
		t.Fatalf("%+v", r)
	}
}

// Each step of sealing fails in both ways; sealing again makes it whole.
func TestSealingOnAWSWithFaultsTwice(t *testing.T) {
	for _, op := range []string{"get", "since", "create", "open", "put", "load", "swap"} {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			for nth := 1; nth <= 2; nth++ {
				t.Run(fmt.Sprintf("%s-%d-%d", op, fault, nth), func(t *testing.T) {
					w := newWorld(t)
					w.session(t, 3)
					w.pass(2 * time.Minute)
					w.seal(t, w.c)
					w.session(t, 5)
					w.pass(2 * time.Minute)
					f := &storetest.Faults{Plan: storetest.Nth(op, nth, fault)}
					c := w.c
					c.Items, c.Feed = storetest.FaultyItems{Faults: f, Items: w.items}, storetest.FaultyFeed{Faults: f, Feed: w.items}
					c.Blobs, c.Heads = storetest.FaultyBlobs{Faults: f, Blobs: w.c.Blobs}, storetest.FaultyHeads{Faults: f, Heads: w.c.Heads}
					w.seal(t, c)
					w.session(t, 2) // the feed moves on before the next try
					w.pass(2 * time.Minute)
					w.seal(t, c)
					w.seal(t, w.c)
					if r := w.verify(t); !r.OK || r.Unsealed != 0 || r.Commands != 10 {
						t.Fatalf("%+v", r)
					}
				})
			}
		}
	}
}
