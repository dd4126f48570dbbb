package prototest

import (
	"bytes"
	"context"
	"errors"
	"net"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// mutation breaks a room. Nil leaves it whole.
type mutation func(h *house, r protocol.Protocol) protocol.Protocol

// serve is a room made of one function.
type serve func(ctx context.Context, client net.Conn, s *protocol.Session) error

func (f serve) Serve(ctx context.Context, client net.Conn, s *protocol.Session) error {
	return f(ctx, client, s)
}

// session breaks what a room is given.
func session(edit func(h *house, client net.Conn, s *protocol.Session) net.Conn) mutation {
	return func(h *house, r protocol.Protocol) protocol.Protocol {
		return serve(func(ctx context.Context, client net.Conn, s *protocol.Session) error {
			broken := *s
			return r.Serve(ctx, edit(h, client, &broken), &broken)
		})
	}
}

// asks breaks a room's questions.
func asks(check func(h *house, client net.Conn, inner protocol.Gate) gateFunc) mutation {
	return session(func(h *house, client net.Conn, s *protocol.Session) net.Conn {
		s.Gate = check(h, client, s.Gate)
		return client
	})
}

var mutants = []struct {
	promise int
	name    string
	says    string // what the promise's test must say
	mutate  mutation
}{
	{1, "forwards first", "before its entry", asks(func(h *house, _ net.Conn, inner protocol.Gate) gateFunc {
		return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
			forward(h, cmds)
			return inner.Check(ctx, cmds, held)
		}
	})},
	{1, "does not ask", "never asked", asks(func(h *house, _ net.Conn, inner protocol.Gate) gateFunc {
		return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
			return other(ctx, inner, cmds)
		}
	})},
	{2, "forwards what was denied", "went to the target", asks(func(h *house, _ net.Conn, inner protocol.Gate) gateFunc {
		return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
			ps, err := inner.Check(ctx, cmds, held)
			if err != nil {
				forward(h, cmds)
			}
			return ps, err
		}
	})},
	{2, "runs what was denied", "went to the target", asks(runAnyway)},
	{3, "denies silently", "no answer", asks(func(_ *house, client net.Conn, inner protocol.Gate) gateFunc {
		return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
			ps, err := inner.Check(ctx, cmds, held)
			if err != nil {
				_ = client.Close()
			}
			return ps, err
		}
	})},
	{3, "denies without a reason", "detail of a denial", asks(func(_ *house, _ net.Conn, inner protocol.Gate) gateFunc {
		return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
			ps, err := inner.Check(ctx, cmds, held)
			if d := (*access.Denied)(nil); errors.As(err, &d) {
				err = &access.Denied{Index: d.Index}
			}
			return ps, err
		}
	})},
	{3, "pretends", "no error of the protocol", asks(func(_ *house, _ net.Conn, inner protocol.Gate) gateFunc {
		return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
			ps, err := inner.Check(ctx, cmds, held)
			if err != nil {
				return other(ctx, inner, cmds)
			}
			return ps, err
		}
	})},
	{4, "fails open", "without a decision", asks(runAnyway)},
	{5, "skips the mask", "reached the client", session(func(_ *house, client net.Conn, s *protocol.Session) net.Conn {
		s.Classes = nil
		return client
	})},
	{6, "logs the credential", "reached the log", session(func(_ *house, client net.Conn, s *protocol.Session) net.Conn {
		s.Log.Info("login", "password", s.Login.Password.Reveal())
		return client
	})},
	{6, "tells the credential", "reached the client", session(func(_ *house, client net.Conn, s *protocol.Session) net.Conn {
		return &teller{client, s.Login.Password.Reveal()}
	})},
	{7, "takes a read for a message", "no answer", session(func(_ *house, client net.Conn, _ *protocol.Session) net.Conn { return &chunky{client} })},
	{8, "ignores cancel", "does not end", func(_ *house, r protocol.Protocol) protocol.Protocol {
		return serve(func(ctx context.Context, client net.Conn, s *protocol.Session) error {
			return r.Serve(context.WithoutCancel(ctx), client, s)
		})
	}},
	{8, "leaves a goroutine", "goroutines are left", func(h *house, r protocol.Protocol) protocol.Protocol {
		return serve(func(ctx context.Context, client net.Conn, s *protocol.Session) error {
			go func() { <-h.t.Context().Done() }()
			return r.Serve(ctx, client, s)
		})
	}},
	{8, "leaves the target's connection", "stay open", session(func(h *house, client net.Conn, s *protocol.Session) net.Conn {
		dial := s.Dial
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			if c, err := dial(ctx); err == nil {
				h.leaks.Lock()
				h.leaked = append(h.leaked, c)
				h.leaks.Unlock()
			}
			return dial(ctx)
		}
		return client
	})},
	{9, "passes everything on", "went to the target", listens(leaky)},
	{10, "allocates first", "were allocated", listens(greedy)},
}

// forward writes commands to the target behind the room's back.
func forward(h *house, cmds []access.Command) {
	if c := h.tap.last(); c != nil {
		for i := range cmds {
			_, _ = c.Write([]byte(cmds[i].Text)) // what becomes of it is the test's to see
		}
	}
}

// other asks for something harmless, and takes the leave for it as leave for cmds.
func other(ctx context.Context, inner protocol.Gate, cmds []access.Command) ([]*gate.Permit, error) {
	harmless := make([]access.Command, len(cmds))
	for i := range harmless {
		harmless[i] = access.Command{Verb: "NONE", Complete: true}
	}
	return inner.Check(ctx, harmless, nil)
}

// runAnyway runs what nothing permitted, with the permits of a gate that allows everything.
func runAnyway(h *house, _ net.Conn, inner protocol.Gate) gateFunc {
	return func(ctx context.Context, cmds []access.Command, held func(access.HeldCommand)) ([]*gate.Permit, error) {
		ps, err := inner.Check(ctx, cmds, held)
		if err == nil && len(ps) == len(cmds) && len(ps) > 0 && ps[0].Command() != "" {
			return ps, nil
		}
		b := &broker{classes: h.broker.classes, held: make(chan struct{}, 1)}
		batcher := gate.NewBatcher("agent", b)
		defer batcher.Close()
		g, err := gate.New(gate.Config{Batcher: batcher, Claims: b, Verdicts: b, Outcomes: b, Session: "OTHER", Target: "target", State: "state",
			DigestKey: digestKey, Classes: h.f.Classes})
		if err != nil {
			return nil, err
		}
		return other(ctx, g, cmds)
	}
}

// teller adds the credential to what the client gets.
type teller struct {
	net.Conn
	secret string
}

func (c *teller) Write(b []byte) (int, error) {
	if _, err := c.Conn.Write(b); err != nil {
		return 0, err
	}
	_, err := c.Conn.Write([]byte(c.secret))
	return len(b), err
}

// chunky loses what does not fit a read, and what is too short to be a message.
type chunky struct{ net.Conn }

func (c *chunky) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n == 1 {
		n = 0
	}
	return min(n, 64), err
}

// listens breaks a room by what it hears the client say.
func listens(do func(h *house, b []byte)) mutation {
	return func(h *house, r protocol.Protocol) protocol.Protocol {
		h.sending = func(b []byte) { do(h, b) }
		return r
	}
}

// leaky sends messages that it does not know to the target.
func leaky(h *house, b []byte) {
	if t := h.tap.last(); t != nil && bytes.Contains(b, []byte("unknown")) {
		_, _ = t.Write(b) // see forward
	}
}

// greedy makes room for a message as soon as it has read how long it is.
func greedy(h *house, b []byte) {
	if bytes.HasSuffix(b, h.f.Wire.Oversized()) {
		h.room = make([]byte, 256<<20)
	}
}
