package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport/sallyport/internal/access"
)

// Somebody who changes a table keeps nobody out who does not want it, though the server would have them wait before it shows the body of a
// function that names it. Such a body is opaque until it can be read.
func TestALockedTableKeepsNobodyOut(t *testing.T) {
	g := newScript(nil)
	h := openHouse(t, g, nil)
	h.srv.Exec(t, "create table held_away (id int); create function counts_held() returns bigint begin atomic select count(*) from held_away; end")
	t.Cleanup(func() { h.srv.Exec(t, "drop function counts_held(); drop table held_away") })
	opaque := func() bool {
		conn := h.connect("")
		defer conn.Close(context.Background())
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		var n int
		if err := conn.QueryRow(ctx, "select 1").Scan(&n); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { // it waits for the lock, where there is one
			defer close(done)
			_, _ = conn.Exec(ctx, "select counts_held()", pgx.QueryExecModeSimpleProtocol)
		}()
		var asked access.Command
		eventually(t, "the question", func() bool {
			for _, c := range g.commands() {
				if c.Text == "select counts_held()" {
					asked = c
				}
			}
			return asked.Text != ""
		})
		stop()
		<-done
		g.mu.Lock()
		g.asked = nil
		g.mu.Unlock()
		for _, touch := range asked.Touches {
			if touch.Resource.Name == "public.held_away" {
				return false
			}
		}
		return true
	}
	if opaque() {
		t.Error("the body is not read though nothing is locked")
	}
	other, err := pgx.Connect(t.Context(), h.srv.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), "begin; lock table held_away in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	h.srv.Exec(t, "comment on function counts_held() is 'so that the catalogue is read again'; alter function counts_held() cost 7")
	if !opaque() {
		t.Error("a body that is locked away was read")
	}
	if _, err := other.Exec(t.Context(), "rollback"); err != nil {
		t.Fatal(err)
	}
	if opaque() {
		t.Error("it stays opaque after the lock")
	}
}
