package mask

import "sync"

// filter is a Stream without time: it turns bytes into what may be shown of them.
type filter struct {
	f      *Finder
	show   func([]byte) // takes what may be shown, before it returns
	c      cursor
	carry  []byte // what may be looked at again; c counts from its beginning
	shown  int    // of carry
	past   int64  // bytes of the stream before carry
	found  [detectorCount]int64
	likely bool // what is kept back hardly comes about but in a value
	fixed  bool // as many bytes come out as go in: stars for what is masked
}

func newFilter(f *Finder, show func([]byte)) *filter {
	return &filter{f: f, show: show, c: cursor{fresh: -1}}
}

// kept is where that begins, in the stream, which is kept back; -1: nothing is.
func (x *filter) kept() int64 {
	if x.shown >= len(x.carry) {
		return -1
	}
	return x.past + int64(x.shown)
}

// buffers are where what was kept back and what follows it are joined, and where masked output is made.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxBuffer bounds what is kept for the next write: twice the largest packet of SSH, and what a stream holds back.
const maxBuffer = 72 << 10

// write takes what follows; final says that nothing comes after it.
func (x *filter) write(p []byte, final bool) {
	if len(x.carry) == 0 {
		x.run(p, final, false)
		return
	}
	joined := buffers.Get().(*[]byte)
	*joined = append(append((*joined)[:0], x.carry...), p...)
	x.run(*joined, final, false)
	if cap(*joined) <= maxBuffer {
		buffers.Put(joined)
	}
}

// release shows what is kept back, but for values that are complete. What follows may still complete one: then no more of it is shown.
func (x *filter) release() { x.run(x.carry, true, true) }

// run scans all of b, which begins with carry.
func (x *filter) run(b []byte, final, later bool) {
	var out *[]byte // what is shown, once it differs from b
	if x.c.open != nil {
		x.c.skip(b)
		if x.fixed && x.c.pos > x.shown {
			out = buffers.Get().(*[]byte)
			*out = stars((*out)[:0], x.c.pos-x.shown)
		}
		x.shown = max(x.shown, x.c.pos)
	}
	var m match
	for m = x.f.scan(b, &x.c, final); m.v == yes; m = x.f.scan(b, &x.c, final) {
		x.found[m.class.kind]++
		if out == nil {
			out = buffers.Get().(*[]byte)
			*out = (*out)[:0]
		}
		if x.fixed {
			from := max(m.at, x.shown)
			*out = append(*out, b[x.shown:from]...)
			x.shown = max(x.shown, x.c.pass(&m, b))
			*out = stars(*out, x.shown-from)
			continue
		}
		if m.at >= x.shown {
			*out = m.hide(append(*out, b[x.shown:m.at]...), b)
		} else if m.end > x.shown { // its beginning was released
			*out = append(*out, Hidden...)
		}
		x.shown = max(x.shown, x.c.pass(&m, b))
	}
	to := m.at
	if final {
		to = len(b)
	}
	if later {
		m = x.f.scan(b, &x.c, false)
	} else if final {
		m = match{at: len(b)}
	}
	x.likely = m.likely
	plain := b[x.shown:max(to, x.shown)]
	x.shown = max(to, x.shown)
	switch {
	case out != nil:
		*out = append(*out, plain...)
		x.show(*out)
		if cap(*out) <= maxBuffer {
			buffers.Put(out)
		}
	case len(plain) > 0:
		x.show(plain)
	}
	x.keep(b, m.at)
}

func stars(dst []byte, n int) []byte {
	for range n {
		dst = append(dst, '*')
	}
	return dst
}

// keep keeps b from at on, and a little before it.
func (x *filter) keep(b []byte, at int) {
	from := max(0, at-behind)
	x.carry = append(x.carry[:0], b[from:]...) // b may be carry itself: then it moves down
	x.past += int64(from)
	x.shown -= from
	x.c.pos = at - from
	x.c.floor = max(0, x.c.floor-from)
	x.c.fresh = max(-1, x.c.fresh-from)
}
