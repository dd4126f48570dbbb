package ssh

import (
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// shell is what gives this connection's command lines their meaning.
func (l *link) shell() shell {
	home := l.home()
	return shell{user: l.s.Login.User, home: home, cwd: home}
}

// classes says which protected data a command line may show. Files that a class names by their path are not looked into, so that reading one is
// refused unless policy reveals the class. What a class has a detector for is masked in the output; but not where files are carried by
// it, whose bytes have to arrive as they are: what may read any is refused as well.
func (l *link) classes(cmd *access.Command) []access.ClassUse {
	uses := l.named(cmd.Touches)
	carries := carriesFiles(cmd)
	shows := slices.ContainsFunc(cmd.Touches, func(t access.Touch) bool { return t.Effect == access.Read }) || len(cmd.Facts.Functions) > 1 || !cmd.Complete
	for _, c := range l.s.Classes {
		switch {
		case c.Detector == "":
		case !carries:
			uses = append(uses, access.ClassUse{Class: c.Name, On: "output"})
		case shows:
			uses = append(uses, access.ClassUse{Class: c.Name, On: "files", Derived: true, How: "in files that are carried, which cannot be masked"})
		}
	}
	return uses
}

// carriesFiles says whether a command line's own input and output are those of a program that copies files.
func carriesFiles(cmd *access.Command) bool {
	return slices.ContainsFunc(cmd.Touches, func(t access.Touch) bool { return t.Effect == access.Transfer && t.Resource.Kind == access.KindPath })
}

// named are the classes that name files which are read.
func (l *link) named(touches []access.Touch) []access.ClassUse {
	var uses []access.ClassUse
	for _, t := range touches {
		if t.Resource.Kind != access.KindPath || t.Effect != access.Read && t.Effect != access.Transfer {
			continue
		}
		for _, c := range l.s.Classes {
			for _, pattern := range c.Columns {
				if overlaps(pattern, t.Resource.Name) {
					uses = append(uses, access.ClassUse{Class: c.Name, On: t.Resource.Name, Derived: true, How: "in a file, which is not looked into"})
				}
			}
		}
	}
	return uses
}

// opaque is what may pass where nothing is looked into: everything that a detector would be for.
func (l *link) opaque(on string) []access.ClassUse {
	var uses []access.ClassUse
	for _, c := range l.s.Classes {
		if c.Detector != "" {
			uses = append(uses, access.ClassUse{Class: c.Name, On: on, Derived: true, How: "in bytes that are not looked into"})
		}
	}
	return uses
}

// everything is what a terminal may show: each class there is.
func (l *link) everything() []access.ClassUse {
	uses := make([]access.ClassUse, 0, len(l.s.Classes))
	for _, c := range l.s.Classes {
		uses = append(uses, access.ClassUse{Class: c.Name, On: "terminal", Derived: true, How: "on a terminal, where values are drawn and not written"})
	}
	return uses
}

// overlaps says whether a pattern of a class may name something that a touch reads: the path, or something below DIR/*.
func overlaps(pattern, name string) bool {
	if access.Match(pattern, name) {
		return true
	}
	dir, base := path.Split(name)
	if base != "*" {
		return false
	}
	for end := range len(pattern) + 1 {
		if access.Match(pattern[:end], dir) {
			return true // what is left of the pattern is left to what is below
		}
	}
	return false
}

// masked are the classes that a permit wants masked in the output, of those that have a detector.
func (l *link) masked(p *gate.Permit) []access.Class {
	return slices.DeleteFunc(slices.Clone(l.s.Classes), func(c access.Class) bool { return c.Detector == "" || !p.Masks(c.Name) })
}

// plainOut is an output without a mask.
type plainOut struct{ io.Writer }

func (plainOut) Close() error { return nil }

// output is where a command's output goes: masked where the permit says so, on a terminal's recording where there is one.
func (c *channel) output(p *gate.Permit, carries bool) (out, errOut io.WriteCloser) {
	out, errOut = plainOut{c.screen()}, plainOut{c.client.Stderr()}
	if c.pty != nil {
		errOut = out // a host's terminal has no standard error
	}
	classes := c.l.masked(p)
	if len(classes) == 0 {
		return out, errOut
	}
	f := mask.NewFinder(classes, c.l.s.MaskKey)
	if errOut = f.Stream(errOut); !carries { // see classes
		out = f.Stream(out)
	}
	return out, errOut
}

// maskedIn adds up what was masked in outputs.
func maskedIn(outputs ...io.Writer) map[string]int64 {
	var counts map[string]int64
	for _, o := range outputs {
		if r, ok := o.(raw); ok {
			o = r.WriteCloser
		}
		s, ok := o.(*mask.Stream)
		if !ok {
			continue
		}
		for class, n := range s.Counts() {
			if counts == nil {
				counts = map[string]int64{}
			}
			counts[class] += n
		}
	}
	return counts
}

// record begins the recording of what a permit's terminal shows; abort ends what is recorded where that fails.
func (c *channel) record(p *gate.Permit, title string, abort context.CancelCauseFunc) error {
	w, err := c.l.s.Recorder.Start(p.Command(), protocol.Cast, title)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	tape, err := newCast(w, c.pty, title, !c.l.settings.OmitInput, time.Now)
	if err != nil {
		return err
	}
	c.tape, c.abort = tape, abort
	return nil
}

// unrecorded is the denial of what cannot be recorded.
func unrecorded(err error) *access.Denied {
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return d
	}
	return &access.Denied{Code: access.CodeBusy, Rule: "ssh.recording", Retryable: true,
		Hint: "a terminal is recorded or there is none, and the agent cannot keep the recording now: try again later, or send one command at a time"}
}

// taped notes in a result that its recording is not whole.
func (r *run) taped(err error) {
	if err != nil && r.result.Error == "" {
		r.result.Error = "recording"
	}
}

// screen is the client's standard output. What cannot be recorded is not shown.
func (c *channel) screen() io.Writer {
	if c.tape == nil {
		return c.client
	}
	return onTape{c}
}

type onTape struct{ c *channel }

func (t onTape) Write(b []byte) (int, error) {
	if err := t.c.tape.output(b); err != nil {
		t.c.abort(unrecorded(err))
		return 0, err
	}
	return t.c.client.Write(b)
}

// typing is what the client types, recorded before it goes on.
func (c *channel) typing(from io.Reader) io.Reader {
	if c.tape == nil {
		return from
	}
	return typed{c, from}
}

type typed struct {
	c    *channel
	from io.Reader
}

func (t typed) Read(b []byte) (int, error) {
	n, err := t.from.Read(b)
	if tapeErr := t.c.tape.typed(b[:n]); tapeErr != nil {
		t.c.abort(unrecorded(tapeErr))
		return 0, tapeErr
	}
	return n, err
}
