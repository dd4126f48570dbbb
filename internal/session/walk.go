package session

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

// Position is how far a Walk came. The zero Position is before everything.
type Position struct{ partition, cursor string }

// walkPage is how many sessions Walk asks for at a time.
const walkPage = 250

// Walk returns sessions of the last days days, now's included, oldest first: at most limit, from a position on. The position that it returns is
// the zero one at the end: walked again and again, no session stays unseen, however many there are.
func Walk(ctx context.Context, items store.Items, now time.Time, days, limit int, from Position) (all []Record, next Position, err error) {
	for d := days - 1; d >= 0; d-- {
		at := Position{partition: partition(now.UTC().AddDate(0, 0, -d))}
		if at.partition < from.partition { // days are spelt in order
			continue
		}
		if at.partition == from.partition {
			at.cursor = from.cursor
		}
		for {
			if len(all) >= limit {
				return all, at, nil
			}
			p, err := items.Query(ctx, store.Registry, at.partition, "", at.cursor, min(limit-len(all), walkPage))
			if err != nil {
				return nil, from, fmt.Errorf("walk sessions: %w", err)
			}
			for _, it := range p.Items {
				r, err := decode(it)
				if err != nil {
					return nil, from, fmt.Errorf("walk sessions: %w", err)
				}
				all = append(all, r)
			}
			if at.cursor = p.Cursor; at.cursor == "" {
				break
			}
		}
	}
	return all, Position{}, nil
}
