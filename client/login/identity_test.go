package login

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
)

// renewals is an identity whose broker is a function.
func renewals(life time.Duration, renew func(n int) error) (*Identity, *[]time.Duration) {
	start := time.Now()
	at := new([]time.Duration)
	i := &Identity{now: time.Now}
	i.cur.Expires = start.Add(life)
	i.renew = func(context.Context) (state.Login, error) {
		*at = append(*at, time.Since(start))
		if err := renew(len(*at)); err != nil {
			return state.Login{}, err
		}
		return state.Login{Expires: time.Now().Add(life), Token: secret.New("fresh")}, nil
	}
	return i, at
}

func TestKeepRenewsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, at := renewals(5*time.Minute, func(int) error { return nil })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := i.Keep(ctx); err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{3 * time.Minute, 6 * time.Minute, 9 * time.Minute}
		if len(*at) != len(want) {
			t.Fatalf("renewed at %v, want %v", *at, want)
		}
		for n := range want {
			if (*at)[n] != want[n] {
				t.Errorf("renewed at %v, want %v", *at, want)
			}
		}
		if i.Token() != "fresh" {
			t.Errorf("token %q", i.Token())
		}
	})
}

func TestKeepGoesOnWhileTheBrokerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		i, at := renewals(5*time.Minute, func(n int) error {
			if n < 100 { // longer than the token is good
				return away
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		if err := i.Keep(ctx); err != nil {
			t.Fatal(err)
		}
		if len(*at) < 100 || i.Token() != "fresh" {
			t.Errorf("%d attempts, token %q", len(*at), i.Token())
		}
		if gap := (*at)[1] - (*at)[0]; gap < retry {
			t.Errorf("tried again after %v", gap)
		}
	})
}

func TestKeepEndsWhenRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, at := renewals(5*time.Minute, func(int) error { return api.Because(api.ErrRevoked, "", "revoked by alice") })
		if err := i.Keep(t.Context()); !errors.Is(err, api.ErrRevoked) {
			t.Errorf("got %v", err)
		}
		if len(*at) != 1 {
			t.Errorf("asked %d times", len(*at))
		}
	})
}

func TestKeepDoesNotHurryAShortToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, at := renewals(time.Minute, func(int) error { return nil }) // always due
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := i.Keep(ctx); err != nil {
			t.Fatal(err)
		}
		if len(*at) > int(time.Minute/retry)+1 {
			t.Errorf("renewed %d times in a minute", len(*at))
		}
	})
}

func TestFresh(t *testing.T) {
	away := errors.New("away")
	for name, tc := range map[string]struct {
		life    time.Duration
		err     error
		renewed bool
		want    error
	}{
		"good for long":           {10 * time.Minute, away, false, nil},
		"due":                     {time.Minute, nil, true, nil},
		"due, broker away":        {time.Minute, away, true, nil}, // the token is still good
		"due, revoked":            {time.Minute, api.Because(api.ErrRevoked, "", "x"), true, api.ErrRevoked},
		"over, broker away":       {-time.Minute, away, true, away},
		"over, renewed all right": {-time.Minute, nil, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			i, at := renewals(tc.life, func(int) error { return tc.err })
			if err := i.Fresh(t.Context()); !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if (len(*at) > 0) != tc.renewed {
				t.Errorf("renewed %v", *at)
			}
		})
	}
}
