package store

import (
	"context"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
)

// digits are a ULID's, in order of time: the first ten tell it, in milliseconds.
const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const (
	newestPage  = 100      // items a query: 39 MB at the worst
	newestBytes = 32 << 20 // of the bodies of one answer
)

// Newest lists a partition whose SKs are ULIDs from the newest back, at most limit items, and no more once their bodies have come to
// 32 MiB. Query goes upwards only; what is too much to read to its end is entered by the first digits of its keys, the latest ones
// first, so that the work follows limit and not the partition's size: at each digit, limit items and 31 queries that find nothing,
// at most. until is a time that no key is later than.
func Newest(ctx context.Context, items Items, table, pk string, until time.Time, limit int) ([]Item, error) {
	n := newest{items: items, table: table, pk: pk, limit: limit}
	var last ulid.ULID
	if err := last.SetTime(ulid.Timestamp(until)); err != nil {
		return nil, err
	}
	n.until = last.String()[:10]
	if err := n.under(ctx, ""); err != nil {
		return nil, err
	}
	return n.out, nil
}

type newest struct {
	items     Items
	table, pk string
	until     string
	limit     int
	out       []Item
	size      int
}

func (n *newest) under(ctx context.Context, prefix string) error {
	some, all, err := n.read(ctx, prefix)
	if err != nil {
		return err
	}
	if all || len(prefix) == ulid.EncodedSize {
		for _, it := range slices.Backward(some) {
			if n.full() {
				break
			}
			n.out, n.size = append(n.out, it), n.size+len(it.Body)
		}
		return nil
	}
	for i := len(digits) - 1; i >= 0 && !n.full(); i-- {
		next := prefix + digits[i:i+1]
		if common := min(len(next), len(n.until)); next[:common] > n.until[:common] || next < some[0].SK[:min(len(next), len(some[0].SK))] {
			continue // not yet, or before the first that there is
		}
		if err := n.under(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

func (n *newest) full() bool { return len(n.out) >= n.limit || n.size >= newestBytes }

// read reads what starts with prefix, to the end or until there is more than is wanted.
func (n *newest) read(ctx context.Context, prefix string) (some []Item, all bool, err error) {
	size := 0
	for cursor := ""; ; {
		p, err := n.items.Query(ctx, n.table, n.pk, prefix, cursor, newestPage)
		if err != nil {
			return nil, false, err
		}
		some = append(some, p.Items...)
		for _, it := range p.Items {
			size += len(it.Body)
		}
		if cursor = p.Cursor; cursor == "" {
			return some, true, nil
		}
		if len(some) > n.limit || len(some) > 0 && size > newestBytes {
			return some, false, nil
		}
	}
}
