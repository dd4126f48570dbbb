package seal

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// Run seals, and takes the figure of how far the published checkpoint is behind. Where not even that can be read there is no figure, only the
// error.
func (s *Sealer) Run(ctx context.Context) error {
	_, err := s.Seal(ctx)
	if err == nil {
		telemetry.Most(ctx, telemetry.CheckpointAgeSeconds, 0)
		return nil
	}
	if behind, berr := s.Behind(ctx); berr == nil {
		telemetry.Most(ctx, telemetry.CheckpointAgeSeconds, behind.Seconds())
	}
	return err
}

// Behind is the age of the oldest entry that is not in the log yet; 0 where all are.
func (s *Sealer) Behind(ctx context.Context) (time.Duration, error) {
	h, _, err := s.load(ctx)
	if err != nil {
		return 0, err
	}
	items, _, err := s.Feed.Since(ctx, store.Audit, h.Cursor, 1)
	if err != nil || len(items) == 0 {
		return 0, err
	}
	entries, err := audit.Decode(items[0])
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	return max(s.Now().Sub(entries[0].Time), 0), nil
}
