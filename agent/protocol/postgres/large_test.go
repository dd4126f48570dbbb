package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
)

// What clients send that is large: a script in one message, as many parameters as there may be, 16 MiB in a text or in a value.
func TestLarge(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	c := h.connect("").PgConn()
	if _, err := c.Exec(t.Context(), strings.Repeat("select 42;", 5000)).ReadAll(); err != nil {
		t.Errorf("5000 statements: %v", err)
	}
	if last := g.commands()[len(g.commands())-1]; last.Facts.Statement != 5000 || !last.Complete {
		t.Errorf("asked about %d statements, complete %v %s", last.Facts.Statement, last.Complete, last.Why)
	}

	var many []string
	var args [][]byte
	for i := range 65535 {
		many, args = append(many, fmt.Sprintf("($%d::text)", i+1)), append(args, []byte("v"))
	}
	r := c.ExecParams(t.Context(), "values "+strings.Join(many, ", "), args, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) != len(args) {
		t.Errorf("%d parameters: %d rows, %v", len(args), len(r.Rows), r.Err)
	}

	value := bytes.Repeat([]byte("x"), 16<<20)
	if r := c.ExecParams(t.Context(), "select length($1::text)", [][]byte{value}, nil, nil, nil).Read(); r.Err != nil || string(r.Rows[0][0]) != "16777216" {
		t.Errorf("a parameter of 16 MiB: %v", r.Err)
	}
	if rs, err := c.Exec(t.Context(), "select length('"+string(value)+"')").ReadAll(); err != nil || string(rs[0].Rows[0][0]) != "16777216" {
		t.Errorf("a text of 16 MiB: %v", err)
	}
	for _, sql := range []string{"select length('" + strings.Repeat("x", maxCommand) + "')", "select 1" + strings.Repeat(",1", maxTokens)} {
		var pgErr *pgconn.PgError
		if _, err := c.Exec(t.Context(), sql).ReadAll(); !errors.As(err, &pgErr) || pgErr.Code != "42501" || !strings.Contains(pgErr.Detail, "postgres.") {
			t.Errorf("%d bytes: %v", len(sql), err)
		}
	}
	if _, err := c.Exec(t.Context(), "select 1").ReadAll(); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

// What a session holds at the target counts also before its Sync.
func TestLargeKept(t *testing.T) {
	h := openHouse(t, newScript(nil), nil)
	c := h.connect("").PgConn()
	p := c.StartPipeline(t.Context())
	sql := "select '" + strings.Repeat("x", 4<<20) + "'"
	for i := range maxKept/(4<<20) + 1 {
		p.SendPrepare(fmt.Sprintf("s%d", i), sql, nil)
	}
	err := p.Sync()
	for err == nil {
		_, err = p.GetResults()
	}
	if codeOf(err) != stateBusy {
		t.Errorf("texts over %d bytes in one pipeline: %v", maxKept, err)
	}
	_ = p.Close()
}

// All sessions together hold no more than the room's memory. Who waits for it gets it, or hears that the agent is busy.
func TestLargeShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newRation(10 << 20)
		a, b := &front{ration: shared}, &front{ration: shared}
		if err := a.reserve(t.Context(), 8<<20); err != nil {
			t.Fatal(err)
		}
		if err := b.reserve(t.Context(), freeBytes); err != nil || b.reserved != 0 {
			t.Errorf("what is small waits for what is large: %v", err)
		}
		done := make(chan error, 1)
		ask := func(ctx context.Context) { go func() { done <- b.reserve(ctx, 8<<20) }() }
		ask(t.Context())
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("more than there is: %v", err)
		default:
		}
		a.held = 1 << 20 // a statement that it prepared
		a.release()
		if err := <-done; err != nil || a.reserved != 1<<20-freeBytes {
			t.Errorf("%v, %d bytes are kept", err, a.reserved)
		}
		b.free()
		a.held = 0
		a.release()

		if err := a.reserve(t.Context(), 8<<20); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ask(t.Context())
		if d := (*access.Denied)(nil); !errors.As(<-done, &d) || d.Code != access.CodeBusy || time.Since(start) != memoryWait {
			t.Errorf("busy after %s", time.Since(start))
		}
		ctx, stop := context.WithCancelCause(t.Context())
		ask(ctx)
		stop(errClientGone)
		if err := <-done; !errors.Is(err, errClientGone) {
			t.Errorf("a session that ends: %v", err)
		}
		a.free()
		if !shared.memory.TryAcquire(10 << 20) {
			t.Error("memory is lost")
		}
	})
}

// One large text is looked at at a time; a small one does not wait.
func TestLargeTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newRation(1)
		cat := &catalogue{turn: shared.turn}
		done, busy := cat.analysing(strings.Repeat("x", largeText+1))
		if busy != nil {
			t.Fatal(busy)
		}
		if small, busy := cat.analysing("select 1"); busy != nil {
			t.Error("a small text waits")
		} else {
			small()
		}
		if _, busy := cat.analysing(strings.Repeat("x", largeText+1)); busy == nil || busy.Rule != "postgres.busy" {
			t.Errorf("two at a time: %v", busy)
		}
		done()
		if _, busy := cat.analysing(strings.Repeat("x", largeText+1)); busy != nil {
			t.Errorf("the turn is lost: %v", busy)
		}
	})
}

// A large message that does not come on ends its session: others may be waiting for its memory.
func TestLargeSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newRation(32 << 20)
		f := &front{link: &link{in: newInbox()}, ration: shared}
		start := time.Now()
		var v *violation
		if _, err := f.body(t.Context(), nil, 16<<20); !errors.As(err, &v) {
			t.Errorf("it waits: %v", err)
		}
		if took := time.Since(start); took != memoryWait+(16<<20/slowest)*time.Second {
			t.Errorf("after %s", took)
		}
	})
}
