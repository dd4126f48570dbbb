package gate

import (
	"context"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// waiting is what one Check asks next, while another question of the session is on its way.
type waiting struct {
	cmds []access.Command
	done chan reply // capacity 1

	// Guarded by the line's mu.
	alone bool      // a question together with others came to nothing
	group *together // whose question it is part of
	gone  bool      // nobody takes the reply any more
}

// together are several whose commands go in one question.
type together struct {
	all     []*waiting
	present int // of whom somebody still waits
	stop    context.CancelFunc
}

// line are those who wait for the turn, in their order. Whoever gets it asks for all of them.
type line struct {
	mu  sync.Mutex
	all []*waiting
}

func (l *line) join(w *waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, w)
}

// leave takes out one who gave up. Where its question is on its way, the reply is cleared up by whoever gets it, and the question given up
// once nobody is left.
func (l *line) leave(w *waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.gone = true
	if w.group == nil {
		l.all = slices.DeleteFunc(l.all, func(o *waiting) bool { return o == w })
		return
	}
	if w.group.present--; w.group.present == 0 {
		w.group.stop()
	}
}

// take takes w, and whoever else fits, out of the line. Nil says that somebody else asked for w meanwhile: its reply is there.
func (l *line) take(w *waiting) []*waiting {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.all, w) {
		return nil
	}
	group, commands, bytes := []*waiting{w}, len(w.cmds), sizes(w.cmds)
	for _, o := range l.all {
		if o == w || o.alone || w.alone {
			continue
		}
		commands += len(o.cmds)
		if bytes += sizes(o.cmds); commands > api.MaxBatch || bytes > maxCall {
			break
		}
		group = append(group, o)
	}
	l.all = slices.DeleteFunc(l.all, func(o *waiting) bool { return slices.Contains(group, o) })
	return group
}

func sizes(cmds []access.Command) (n int) {
	for i := range cmds {
		n += size(&cmds[i])
	}
	return n
}

// begin says that what was taken is asked for in one question.
func (l *line) begin(all []*waiting) (context.Context, *together) {
	ctx, stop := context.WithCancel(context.Background())
	t := &together{all: all, present: len(all), stop: stop}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range all {
		w.group = t
	}
	return ctx, t
}

// hand gives the replies out. Who has none is in front of the line again; the replies that nobody takes are returned.
func (l *line) hand(t *together, replies []reply) (orphans []reply) {
	t.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	var again []*waiting
	for i, w := range t.all {
		w.group = nil
		switch r := replies[i]; {
		case w.gone:
			orphans = append(orphans, r)
		case r.again:
			w.alone = w.alone || r.alone
			again = append(again, w)
		default:
			w.done <- r
		}
	}
	l.all = append(again, l.all...)
	return orphans
}

// next asks once for a beginning of cmds: at once where nothing else of the session is being asked, otherwise as part of the question after it.
func (g *Gate) next(ctx context.Context, cmds []access.Command) reply {
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
		return g.round(ctx, cmds)[0]
	default:
	}
	w := &waiting{cmds: cmds, done: make(chan reply, 1)}
	g.line.join(w)
	for {
		select {
		case g.turn <- struct{}{}:
			if r, ok := g.lead(ctx, w); ok {
				return r
			}
		case r := <-w.done:
			return r
		case <-ctx.Done():
			g.line.leave(w)
			return g.left(ctx, w)
		}
	}
}

// lead has the turn, and gives it back: at once, or, where others wait as well, when all of them have been asked for; then ok is false, and
// the reply comes by w.done.
func (g *Gate) lead(ctx context.Context, w *waiting) (r reply, ok bool) {
	all := g.line.take(w)
	if len(all) > 1 {
		ctx, t := g.line.begin(all)
		g.farther.Go(func() { g.together(ctx, t) })
		return reply{}, false
	}
	defer func() { <-g.turn }()
	if len(all) == 0 {
		return <-w.done, true
	}
	return g.round(ctx, w.cmds)[0], true
}

// left is the reply of one who gave up: one that came just before stands.
func (g *Gate) left(ctx context.Context, w *waiting) reply {
	select {
	case r := <-w.done:
		return r
	default:
		return reply{denied: given(ctx)}
	}
}

// together asks for several, whose contexts end one by one: the question's own ends with the last of them. It gives the turn back.
func (g *Gate) together(ctx context.Context, t *together) {
	parts := make([][]access.Command, len(t.all))
	for i, w := range t.all {
		parts[i] = w.cmds
	}
	orphans := g.line.hand(t, g.round(ctx, parts...))
	<-g.turn
	for _, r := range orphans {
		for _, p := range r.permits {
			p.Done(access.Result{})
		}
		if r.held != nil {
			g.giveUp(ctx, r.held)
			g.farther.Done()
		}
	}
}
