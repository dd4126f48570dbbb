package deployed

import (
	"context"
	"fmt"
	"time"
)

// SealLimit is how long an entry may take to come under a checkpoint: the feed of the audit table gives out whole minutes, each half a
// minute after its end.
const SealLimit = 2 * time.Minute

// Seal waits until every entry that is stored is under a signed checkpoint. Nothing may write entries meanwhile.
func (s *System) Seal(ctx context.Context) error {
	wait := time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + 35*time.Second))
	s.c.Say("waiting %.0f s until the minute is over and its entries are sealed", wait.Seconds())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
	}
	if err := s.invoke(ctx, "SealFunction"); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}

// Copies has everything that is sealed copied for SQL, and fetches the copies as an auditor would.
func (s *System) Copies(ctx context.Context, to string) error {
	if err := s.invoke(ctx, "CopiesFunction"); err != nil {
		return fmt.Errorf("copies: %w", err)
	}
	_, err := run(ctx, s.cloud.command(ctx, "aws", "s3", "sync", "--only-show-errors", "s3://"+s.Outputs["CopiesBucket"], to))
	return err
}
