package story

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// oneClient is what a command waits for, and which process works for it how long.
func oneClient(ctx context.Context, b *bench) error {
	sync, err := fsyncs(b.w.data, 500)
	if err != nil {
		return err
	}
	b.p("\nOne durable append of 1 kB (write + fsync) on the broker's disk: p50 %d µs.", sync.Microseconds())
	b.p("\n| `select 1`, 1 client | lane | p50 µs | p99 µs | added p50 µs | CPU µs a command |\n|---|---|---|---|---|---|")
	for _, m := range modes {
		results, err := b.rounds(func(l lane) (sample, error) { return load(ctx, l, 1, m, 1, roundLength) })
		if err != nil {
			return err
		}
		for i, l := range b.lanes {
			r := results[i]
			b.p("| %s | %s | %d | %d | %d | %s |", m, l.name, r.p50.Microseconds(), r.p99.Microseconds(), (r.p50 - results[0].p50).Microseconds(), l.shares(r.cpu))
		}
	}
	return nil
}

// rounds measures every lane in turns and returns the medians.
func (b *bench) rounds(measure func(lane) (sample, error)) ([]sample, error) {
	all := make([][]sample, len(b.lanes))
	for range benchRounds {
		for i, l := range b.lanes {
			s, err := measure(l)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			all[i] = append(all[i], s)
		}
	}
	var medians []sample
	for _, s := range all {
		medians = append(medians, medianOf(s))
	}
	return medians, nil
}

// shares says how the lane's processes share what a command costs.
func (l lane) shares(cpu []time.Duration) string {
	var parts []string
	for i, d := range cpu {
		parts = append(parts, fmt.Sprintf("%s %d", l.processes[i].name, d.Microseconds()))
	}
	return strings.Join(parts, ", ")
}

// manyClients is pgbench's own figure.
func manyClients(ctx context.Context, b *bench) error {
	script := filepath.Join(b.w.dir, "select1.sql")
	if err := os.WriteFile(script, []byte("select 1;\n"), 0o644); err != nil {
		return err
	}
	b.p("\n| pgbench, `select 1` | clients | lane | tps | of direct | of PgBouncer |\n|---|---|---|---|---|---|")
	for _, clients := range []int{8, 32} {
		for _, m := range modes {
			results, err := b.rounds(func(l lane) (sample, error) {
				n, err := pgbench(ctx, l, script, clients, m, time.Duration(2+clients/32)*time.Second) // connecting counts
				return sample{perSecond: n}, err
			})
			if err != nil {
				return err
			}
			for i, l := range b.lanes {
				r := results[i].perSecond
				b.p("| %s | %d | %s | %.0f | %.2f | %s |", m, clients, l.name, r, r/results[0].perSecond, b.ofBouncer(r, results))
			}
		}
	}
	return nil
}

func (b *bench) ofBouncer(r float64, results []sample) string {
	for i, l := range b.lanes {
		if l.processes != nil && l.processes[0].name == bouncerName {
			return fmt.Sprintf("%.2f", r/results[i].perSecond)
		}
	}
	return "–"
}

// pipelines is 50 prepared statements before each Sync.
func pipelines(ctx context.Context, b *bench) error {
	const batch = 50
	b.p("\n| pipelines of %d prepared `select 1` | lane | statements/s | p50 of a pipeline, µs | CPU µs a statement |\n|---|---|---|---|---|", batch)
	for _, clients := range []int{1, 8, 32} {
		results, err := b.rounds(func(l lane) (sample, error) { return load(ctx, l, clients, prepared, batch, roundLength) })
		if err != nil {
			return err
		}
		for i, l := range b.lanes {
			b.p("| %d clients | %s | %.0f | %d | %s |", clients, l.name, results[i].perSecond, results[i].p50.Microseconds(), l.shares(results[i].cpu))
		}
	}
	return nil
}

const (
	sixColumns = "select name, email, note, ref, street, city from bench.customers"
	noneMasked = "select name, note, ref, street, city, note as again from bench.customers"
)

// rows are streams of a million of them.
func rows(ctx context.Context, b *bench) error {
	b.p("\n| %d rows, six columns of text | lane | MB | s | MB/s | of direct | CPU s/GB |\n|---|---|---|---|---|---|---|", benchRows)
	for _, q := range []struct {
		name, sql string
		lanes     []lane
	}{
		{"none masked", noneMasked, b.lanes},
		{"one masked", sixColumns, b.lanes},
		{"one masked, all six looked into by three detectors", sixColumns, append(b.lanes[:len(b.lanes)-len(b.looking):len(b.lanes)-len(b.looking)], b.looking...)},
	} {
		took, bytes := make([][]time.Duration, len(q.lanes)), make([]int64, len(q.lanes))
		cpu := make([]time.Duration, len(q.lanes))
		for range benchRounds {
			for i, l := range q.lanes {
				before, err := l.cpu()
				if err != nil {
					return err
				}
				n, d, err := stream(ctx, l.dsn, q.sql)
				if err != nil {
					return fmt.Errorf("stream by %s: %w", l.name, err)
				}
				after, err := l.cpu()
				if err != nil {
					return err
				}
				for j := range after {
					cpu[i] += after[j] - before[j]
				}
				took[i], bytes[i] = append(took[i], d), n
			}
		}
		direct := median(took[0])
		for i, l := range q.lanes {
			d, mb := median(took[i]), float64(bytes[i])/1e6
			b.p("| %s | %s | %.0f | %.2f | %.0f | %.2f | %.1f |", q.name, l.name, mb, d.Seconds(), mb/d.Seconds(), direct.Seconds()/d.Seconds(),
				cpu[i].Seconds()/benchRounds/(mb/1e3))
		}
	}
	return nil
}

// connects is the time from nothing to the first ReadyForQuery.
func connects(ctx context.Context, b *bench) error {
	const times = 40
	all := make([][]time.Duration, len(b.lanes))
	for range times {
		for i, l := range b.lanes {
			t := time.Now()
			c, err := pgconn.Connect(ctx, l.dsn)
			if err != nil {
				return fmt.Errorf("connect by %s: %w", l.name, err)
			}
			all[i] = append(all[i], time.Since(t))
			if err := c.Close(ctx); err != nil {
				return err
			}
		}
	}
	b.p("\n| connect, authentication included | p50 ms | added p50 ms |\n|---|---|---|")
	for i, l := range b.lanes {
		d := median(all[i])
		b.p("| %s | %.1f | %.1f |", l.name, float64(d.Microseconds())/1e3, float64((d-median(all[0])).Microseconds())/1e3)
	}
	return nil
}

// memories are what the programs hold: idle, with one large stream, and with many sessions.
func memories(ctx context.Context, b *bench) error {
	b.p("\n| memory, resident | MB |\n|---|---|")
	relay, err := relayMemory(ctx, b.w)
	if err != nil {
		return err
	}
	b.p("| relay alone (its own process), idle | %.0f |", relay)
	idle, err := b.system(ctx, "", filepath.Join(b.w.dir, "policy"))
	if err != nil {
		return err
	}
	b.p("| (`sallyport dev` ready, agent enrolled and connected: %d ms) | – |", b.ready.Milliseconds())
	at := func(l lane) (usage, error) { return memoryOf(l.processes[len(l.processes)-1].pid) }
	m, err := at(idle)
	if err != nil {
		return err
	}
	b.p("| agent, idle | %.0f |", m.rss)
	looking := b.looking[len(b.looking)-1]
	agent := looking.processes[len(looking.processes)-1].pid
	for _, q := range []struct{ name, sql string }{
		{"a million rows of six columns, looked into", sixColumns},
		{"100 rows with 8 MB in one column, looked into", "select repeat('some text ', 800000) from generate_series(1, 100)"},
	} {
		was, err := at(looking)
		if err == nil {
			err = fromHere(agent)
		}
		if err != nil {
			return err
		}
		if _, _, err := stream(ctx, looking.dsn, q.sql); err != nil {
			return err
		}
		m, err := at(looking)
		if err != nil {
			return err
		}
		b.p("| agent, more than before while one session reads %s | %.0f |", q.name, m.peak-was.rss)
	}
	return b.sessions(ctx, idle)
}

const (
	manySessions = 500
	opening      = 16              // at a time
	stalled      = 5 * time.Second // until every buffer on the way is full
)

// sessions are many at a time: first each with nothing to do after a command, then each in the middle of a result that nobody reads.
func (b *bench) sessions(ctx context.Context, l lane) error {
	conns := make([]*pgconn.PgConn, manySessions)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Conn().Close() // in the middle of something
			}
		}
	}()
	began := time.Now()
	if err := each(conns, func(i int) (err error) {
		if conns[i], err = pgconn.Connect(ctx, l.dsn); err != nil {
			return err
		}
		_, err = conns[i].Exec(ctx, "select 1").ReadAll()
		return err
	}); err != nil {
		return err
	}
	opened := time.Since(began)
	memory := func(what string) error {
		for _, p := range l.processes {
			m, err := memoryOf(p.pid)
			if err != nil {
				return err
			}
			b.p("| %s, %d sessions %s | %.0f |", p.name, manySessions, what, m.peak)
		}
		return nil
	}
	if err := memory(fmt.Sprintf("after a command each (opened in %.1f s, %d at a time)", opened.Seconds(), opening)); err != nil {
		return err
	}
	if err := each(conns, func(i int) error {
		_, err := drain(conns[i].ExecParams(ctx, sixColumns+" limit 20000", nil, nil, nil, nil))
		return err
	}); err != nil {
		return err
	}
	if err := memory("that have read 3 MB each"); err != nil {
		return err
	}
	if err := each(conns, func(i int) error {
		conns[i].ExecParams(ctx, sixColumns, nil, nil, nil, nil) // and nobody reads
		return nil
	}); err != nil {
		return err
	}
	time.Sleep(stalled)
	return memory("in the middle of a result that nobody reads")
}

// each works on all connections, a few at a time.
func each(conns []*pgconn.PgConn, work func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	turn := make(chan struct{}, opening)
	for i := range conns {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := work(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil { // the others say the same
					failed = fmt.Errorf("session %d: %w", i, err)
				}
			}
		})
	}
	wg.Wait()
	return failed
}
