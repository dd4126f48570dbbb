package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// sample is what one round of load measured.
type sample struct {
	p50, p99  time.Duration
	perSecond float64
}

// load runs one statement over and over on a number of connections.
func load(ctx context.Context, dsn string, clients int, extended bool, length time.Duration) (sample, error) {
	conns := make([]*pgconn.PgConn, clients)
	for i := range conns {
		c, err := pgconn.Connect(ctx, dsn)
		if err != nil {
			return sample{}, fmt.Errorf("connect: %w", err)
		}
		defer func() { _ = c.Close(ctx) }() // the measuring is over
		conns[i] = c
	}
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	began := time.Now()
	end := began.Add(length)
	for _, c := range conns {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && time.Now().Before(end) {
				t := time.Now()
				if extended {
					_, err = c.ExecParams(ctx, "select 1", nil, nil, nil, nil).Close()
				} else {
					_, err = c.Exec(ctx, "select 1").ReadAll()
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, mine...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	took := time.Since(began)
	if failed != nil || len(all) == 0 {
		return sample{}, fmt.Errorf("load: %w", failed)
	}
	slices.Sort(all)
	return sample{p50: all[len(all)/2], p99: all[len(all)*99/100], perSecond: float64(len(all)) / took.Seconds()}, nil
}

// stream reads a whole result and returns its bytes and the time it took.
func stream(ctx context.Context, dsn, sql string) (int64, time.Duration, error) {
	c, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = c.Close(ctx) }() // the measuring is over
	began := time.Now()
	rr := c.ExecParams(ctx, sql, nil, nil, nil, nil)
	var n int64
	for rr.NextRow() {
		for _, v := range rr.Values() {
			n += int64(len(v)) + 4
		}
		n += 7 // the DataRow's header
	}
	_, err = rr.Close()
	return n, time.Since(began), err
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
