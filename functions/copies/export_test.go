package copies

// ReadCursor is what a run begins with.
func ReadCursor(b []byte) (done, plan int64, err error) {
	cur, err := readCursor(b)
	return cur.Done, cur.Plan, err
}

// Entries is how many a step takes before it ends.
func (c *Copier) Entries(n int64) { c.entries = n }
