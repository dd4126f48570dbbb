package postgres

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestTapLingers: rows that come right behind others are waited for, for a moment and no longer; an end of the room is not missed.
func TestTapLingers(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration // when the target sends
		idle  bool          // what was gathered has left before
	}{
		"right behind": {lingering / 2, false},
		"later":        {10 * lingering, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer ours.Close()   //nolint:errcheck // a pipe's
				defer theirs.Close() //nolint:errcheck // as above
				idle := false
				tap := newTap(ours, func() error { idle = true; return nil })
				go func() {
					time.Sleep(c.after)
					_, _ = theirs.Write(make([]byte, header))
				}()
				tap.linger = true
				began := time.Now()
				if err := tap.need(header); err != nil || idle != c.idle || time.Since(began) != c.after {
					t.Errorf("idle %t after %s, error %v", idle, time.Since(began), err)
				}
			})
		})
	}
}

// TestTapLingersOnce: a target that goes on in drops cannot put off what was gathered for longer than a moment.
func TestTapLingersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close() //nolint:errcheck // a pipe's
		began, left := time.Now(), time.Duration(0)
		tap := newTap(ours, func() error {
			if left == 0 {
				left = time.Since(began)
			}
			return nil
		})
		go func() {
			defer theirs.Close() //nolint:errcheck // a pipe's
			for range 50 {
				time.Sleep(lingering / 10)
				if _, err := theirs.Write([]byte{'D'}); err != nil {
					return
				}
			}
		}()
		for range 50 {
			tap.linger = true
			if err := tap.need(1); err != nil {
				t.Fatal(err)
			}
			tap.r++
		}
		if left == 0 || left > lingering {
			t.Errorf("what was gathered left after %s", left)
		}
	})
}

func TestTapEndsWhileLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()   //nolint:errcheck // a pipe's
		defer theirs.Close() //nolint:errcheck // as above
		done := make(chan struct{})
		tap := newTap(ours, func() error { return nil })
		tap.done, tap.linger = done, true
		go func() { // as Serve does when its context ends
			time.Sleep(lingering / 2)
			close(done)
			_ = ours.SetDeadline(time.Now())
		}()
		if err := tap.need(1); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, errTarget) {
			t.Errorf("got %v", err)
		}
	})
}
