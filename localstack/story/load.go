package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// mode is one of the three ways in which pgbench, and every driver, sends a statement.
type mode string

const (
	simple   mode = "simple"
	extended mode = "extended" // Parse, Bind, Describe, Execute each time
	prepared mode = "prepared" // Parse once
)

var modes = []mode{simple, extended, prepared}

// sample is what one round of load measured.
type sample struct {
	p50, p99  time.Duration
	perSecond float64
	cpu       []time.Duration // of each of the lane's processes, for one statement
}

// load runs `select 1` over and over on a number of connections, batch of them at a time: more than one are a pipeline of prepared statements.
func load(ctx context.Context, l lane, clients int, m mode, batch int, length time.Duration) (sample, error) {
	conns := make([]*pgconn.PgConn, clients)
	for i := range conns {
		c, err := pgconn.Connect(ctx, l.dsn)
		if err != nil {
			return sample{}, fmt.Errorf("connect: %w", err)
		}
		defer func() { _ = c.Close(ctx) }() // the measuring is over
		if _, err := c.Prepare(ctx, "one", "select 1", nil); err != nil {
			return sample{}, err
		}
		conns[i] = c
	}
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	before, err := l.cpu()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	end := began.Add(length)
	for _, c := range conns {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && time.Now().Before(end) {
				t := time.Now()
				err = once(ctx, c, m, batch)
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, mine...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	took := time.Since(began)
	after, err := l.cpu()
	if err = errors.Join(failed, err); err != nil || len(all) == 0 {
		return sample{}, fmt.Errorf("load: %w", err)
	}
	slices.Sort(all)
	s := sample{p50: all[len(all)/2], p99: all[len(all)*99/100], perSecond: float64(len(all)*batch) / took.Seconds()}
	for i := range after {
		s.cpu = append(s.cpu, (after[i]-before[i])/time.Duration(len(all)*batch))
	}
	return s, nil
}

// once sends one statement, or a pipeline of them.
func once(ctx context.Context, c *pgconn.PgConn, m mode, batch int) error {
	switch {
	case batch > 1:
		b := &pgconn.Batch{}
		for range batch {
			b.ExecPrepared("one", nil, nil, nil)
		}
		_, err := c.ExecBatch(ctx, b).ReadAll()
		return err
	case m == extended:
		_, err := c.ExecParams(ctx, "select 1", nil, nil, nil, nil).Close()
		return err
	case m == prepared:
		_, err := c.ExecPrepared(ctx, "one", nil, nil, nil).Close()
		return err
	}
	_, err := c.Exec(ctx, "select 1").ReadAll()
	return err
}

var tps = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbench runs PostgreSQL's own load generator and returns its transactions per second, connecting left out. Its time begins before it
// connects: where that took all of it, it gets more.
func pgbench(ctx context.Context, l lane, script string, clients int, m mode, length time.Duration) (float64, error) {
	program, err := exec.LookPath("pgbench")
	if err != nil {
		return 0, errors.New("pgbench is not installed: on Debian it is in postgresql-client")
	}
	if length > time.Minute {
		return 0, fmt.Errorf("pgbench on %s does not get to work within a minute", l.name)
	}
	cmd := exec.CommandContext(ctx, program, "-n", "-f", script, "-M", string(m), "-c", strconv.Itoa(clients), "-j", "1",
		"-T", strconv.Itoa(int(length.Seconds())), l.dsn)
	cmd.Env = append(os.Environ(), "PGGSSENCMODE=disable")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench on %s: %w: %s", l.name, err, out)
	}
	if strings.Contains(string(out), "actually processed: 0\n") {
		return pgbench(ctx, l, script, clients, m, 2*length)
	}
	found := tps.FindSubmatch(out)
	if found == nil || !strings.Contains(string(out), "number of failed transactions: 0") {
		return 0, fmt.Errorf("pgbench on %s said: %s", l.name, out)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// stream reads a whole result and returns its bytes and the time it took.
func stream(ctx context.Context, dsn, sql string) (int64, time.Duration, error) {
	c, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = c.Close(ctx) }() // the measuring is over
	began := time.Now()
	n, err := drain(c.ExecParams(ctx, sql, nil, nil, nil, nil))
	return n, time.Since(began), err
}

func drain(rr *pgconn.ResultReader) (n int64, err error) {
	for rr.NextRow() {
		for _, v := range rr.Values() {
			n += int64(len(v)) + 4
		}
		n += 7 // the DataRow's header
	}
	_, err = rr.Close()
	return n, err
}

// fsyncs measures what one durable append of a kilobyte costs on the disk that holds dir.
func fsyncs(dir string, n int) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close(); _ = os.Remove(f.Name()) }() // a measuring file
	took := make([]time.Duration, n)
	b := make([]byte, 1024)
	for i := range took {
		t := time.Now()
		if _, err := f.Write(b); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = time.Since(t)
	}
	return median(took), nil
}

func median[T ~int64 | ~float64](v []T) T {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

func medianOf(s []sample) (m sample) {
	var p50, p99 []time.Duration
	var rate []float64
	for _, x := range s {
		p50, p99, rate = append(p50, x.p50), append(p99, x.p99), append(rate, x.perSecond)
	}
	m = sample{p50: median(p50), p99: median(p99), perSecond: median(rate)}
	for i := range s[0].cpu {
		var cpu []time.Duration
		for _, x := range s {
			cpu = append(cpu, x.cpu[i])
		}
		m.cpu = append(m.cpu, median(cpu))
	}
	return m
}
