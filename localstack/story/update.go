package story

import (
	"context"
	"fmt"
	"path/filepath"
)

// update deploys the stack again, which replaces every function, while a session goes on asking: none of its commands may fail.
func (p *player) update(ctx context.Context, c *cloud) error {
	socket := filepath.Join(p.dir, "driver3")
	go func() { _ = serveOne(ctx, socket, p.env()) }() // ends with its one connection
	live, err := p.dialHands(socket, `exec sallyport psql app -- -v VERBOSITY=verbose -v PROMPT1= -v PROMPT2= -qAt`)
	if err != nil {
		return err
	}
	defer live.stop()
	updated := make(chan error, 1)
	go func() { updated <- c.system.Update(ctx) }()
	n := 0
	ask := func() error {
		n++
		from, want := len(live.output()), fmt.Sprintf("during-%d\n", n)
		if err := live.say(fmt.Sprintf("select 'during-%d';", n)); err != nil {
			return err
		}
		if out, err := live.until(from, want, limit); err != nil {
			return fmt.Errorf("command %d of the session: %w: %s", n, err, out[from:])
		}
		return nil
	}
	for {
		if err := ask(); err != nil {
			return err
		}
		select {
		case err := <-updated:
			if err != nil {
				return err
			}
			if err := ask(); err != nil {
				return err
			}
			p.ok("every function was replaced; %d commands of one session went on meanwhile, none of them failed", n)
			return nil
		default:
		}
	}
}
