package mask

// Fixed masks one value after the other as their bytes pass, each by stars in its own length, where what follows has been promised in a
// number of bytes that cannot change any more. It is used by one goroutine.
type Fixed struct {
	x *filter
	f *Finder
}

// Fixed passes what may be shown to show, which must not keep it.
func (f *Finder) Fixed(show func([]byte)) *Fixed {
	x := newFilter(f, show)
	x.fixed = true
	return &Fixed{x: x, f: f}
}

// Write takes what follows of a value. Up to a little over a kilobyte is kept back.
func (w *Fixed) Write(p []byte) { w.x.write(p, false) }

// End ends the value: everything has been shown once it returns.
func (w *Fixed) End() {
	w.x.write(nil, true)
	found := w.x.found
	w.x = newFilter(w.f, w.x.show)
	w.x.fixed, w.x.found = true, found
}

// Counts adds how many values of each class were masked to counts.
func (w *Fixed) Counts(counts map[string]int64) { w.f.counts(&w.x.found, counts) }
