package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/recording"
)

// watchEvery is how often a running recording is asked for more: chunks come every second at most.
const watchEvery = 700 * time.Millisecond

// tape reads one recording off the broker, in runs.
type tape struct {
	v     voice
	path  string
	view  api.RecordingView
	next  int
	ended string
}

// openTape finds a session's recording: the one of the command, or the only one of a kind where the session has one.
func openTape(ctx context.Context, cmd *cobra.Command, v voice, kind string, args []string) (*tape, error) {
	s, path, err := recordingsOf(ctx, cmd, v, args[0])
	if err != nil {
		return nil, err
	}
	var found []api.RecordingView
	for _, r := range s.Recordings {
		if len(args) > 1 && string(r.Command) == args[1] {
			return &tape{v: v, path: path + "/recordings/" + args[1], view: r}, nil
		}
		if r.Kind == kind || kind == "" {
			found = append(found, r)
		}
	}
	switch {
	case len(args) > 1:
		return nil, api.Because(api.ErrNotFound, "list them: sallyport sessions show "+args[0], "command %q has no recording in this session", args[1])
	case len(found) == 0:
		return nil, api.Because(api.ErrNotFound, "list what there is: sallyport sessions show "+args[0], "the session has no such recording")
	case len(found) > 1:
		return nil, usage(cmd, "the session has %d such recordings: name the command, from `sallyport sessions show %s`", len(found), args[0])
	}
	return &tape{v: v, path: path + "/recordings/" + string(found[0].Command), view: found[0]}, nil
}

func recordingsOf(ctx context.Context, cmd *cobra.Command, v voice, id string) (s api.SessionView, path string, err error) {
	if path, err = idPath(cmd, api.PathSessions, id); err == nil {
		err = v.Do(ctx, http.MethodGet, path, nil, &s)
	}
	return s, path, err
}

// more is the next run of bytes; none where there is nothing yet, or the recording has ended.
func (t *tape) more(ctx context.Context) ([]byte, error) {
	var run api.ChunksView
	if err := t.v.Do(ctx, http.MethodGet, t.path+"?from="+strconv.Itoa(t.next), nil, &run); err != nil {
		return nil, err
	}
	if run.From != t.next || run.Next < run.From {
		return nil, errors.New("the broker's answer is not the part of the recording that was asked for")
	}
	t.next, t.ended = run.Next, run.Ended
	return run.Data, nil
}

// each hands over everything that there is now, a run at a time.
func (t *tape) each(ctx context.Context, do func([]byte) error) error {
	for {
		before := t.next
		b, err := t.more(ctx)
		if err != nil {
			return err
		}
		if err := do(b); err != nil {
			return err
		}
		if t.ended != "" || t.next == before {
			return nil
		}
	}
}

// screen is where a recording is shown.
type screen struct {
	w      io.Writer
	raw    bool
	filter recording.Filter
}

func (s *screen) show(text string) error {
	if !s.raw {
		text = s.filter.Safe(text)
	}
	_, err := io.WriteString(s.w, text)
	return err
}

// reset leaves the terminal as it was found, however the recording left it.
func (s *screen) reset() error {
	if s.raw {
		return nil
	}
	_, err := io.WriteString(s.w, recording.Reset)
	return err
}

const recordingHelp = `SESSION is an id from ` + "`sallyport sessions list`" + `, COMMAND one of its commands, from ` + "`sallyport sessions show`" + `; it may be left out where
the session has one such recording.`

func (a *app) replayCommand() *cobra.Command {
	p := player{}
	var raw bool
	c := &cobra.Command{
		Use: "replay SESSION [COMMAND]", Short: "Play a recorded terminal",
		Long: recordingHelp + `
Only what draws reaches your terminal: a recorded program cannot set its title, touch the clipboard, or make it answer. --raw shows everything.`,
		Example: "  sallyport sessions replay 01JD0000000000000000000000 --speed 4 --idle-limit 1s --from 10m",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.speed <= 0 || p.speed > 1e6 || p.idle < 0 || p.from < 0 {
				return usage(cmd, "--speed wants a number above 0, --idle-limit and --from a time")
			}
			return a.withTape(cmd, api.RecordingCast, args, func(ctx context.Context, t *tape) error {
				s := &screen{w: a.stdout, raw: raw}
				err := p.play(ctx, t, s)
				return errors.Join(err, s.reset())
			})
		},
	}
	c.Flags().Float64Var(&p.speed, "speed", 1, "how many times as fast")
	c.Flags().DurationVar(&p.idle, "idle-limit", 2*time.Second, "no pause is longer than this, before --speed; 0 keeps them")
	c.Flags().DurationVar(&p.from, "from", 0, "show what came before this time of the recording at once, and play from there")
	c.Flags().BoolVar(&raw, "raw", false, "let every control sequence through to this terminal")
	return c
}

// withTape opens a recording, does something with it, and hangs up.
func (a *app) withTape(cmd *cobra.Command, kind string, args []string, do func(context.Context, *tape) error) error {
	ctx := cmd.Context()
	v, done, err := a.voice(ctx)
	if err != nil {
		return err
	}
	defer done()
	t, err := openTape(ctx, cmd, v, kind, args)
	if err != nil {
		return err
	}
	return do(ctx, t)
}

// player paces a recording.
type player struct {
	speed float64
	idle  time.Duration
	from  time.Duration // of the recording: what came before is drawn at once, because the picture is made of it
}

func (p player) play(ctx context.Context, t *tape, s *screen) error {
	if t.view.Kind != api.RecordingCast {
		return api.Because(api.ErrBadRequest, "write it to a file: sallyport sessions export … --file NAME", "it is the recording of a file, not of a terminal")
	}
	var cast recording.Cast
	last := 0.0
	return t.each(ctx, func(b []byte) error {
		return cast.Feed(b, func(e recording.Event) error {
			wait := time.Duration((e.Time - max(last, p.from.Seconds())) * float64(time.Second))
			if last = e.Time; p.idle > 0 {
				wait = min(wait, p.idle)
			}
			if err := pause(ctx, time.Duration(float64(wait)/p.speed)); err != nil {
				return err
			}
			if e.Code != "o" {
				return nil
			}
			return s.show(e.Data)
		})
	})
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (a *app) exportCommand() *cobra.Command {
	var cast, file, body string
	c := &cobra.Command{
		Use: "export SESSION [COMMAND] (--cast FILE | --file FILE | --body FILE)", Short: "Write a recording, or a large command, to a file",
		Long: recordingHelp + `
--cast writes a terminal as an asciicast (version 2), which asciinema and its kin play; --file the bytes of a transferred file,
--body the exact text and parameters of a command that is too large to be shown, as JSON. FILE is made, and never
replaced; - is standard output. A recording that still runs is written as far as it has come.`,
		Example: "  sallyport sessions export 01JD0000000000000000000000 --cast shell.cast && asciinema play shell.cast",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if given := slices.DeleteFunc([]string{cast, file, body}, func(s string) bool { return s == "" }); len(given) != 1 {
				return usage(cmd, "give one of --cast, --file and --body")
			}
			if body != "" {
				return a.exportBody(cmd, args, body)
			}
			kind := api.RecordingCast
			if file != "" {
				kind = api.RecordingFile
			}
			return a.withTape(cmd, kind, args, func(ctx context.Context, t *tape) error {
				if t.view.Kind != kind {
					return usage(cmd, "the recording is a %s: give --%s", t.view.Kind, t.view.Kind)
				}
				return a.export(ctx, t, cast+file)
			})
		},
	}
	c.Flags().StringVar(&cast, "cast", "", "write a terminal's recording here")
	c.Flags().StringVar(&file, "file", "", "write a file's recording here")
	c.Flags().StringVar(&body, "body", "", "write a large command here")
	return c
}

// exportBody writes a large command.
func (a *app) exportBody(cmd *cobra.Command, args []string, name string) (err error) {
	if len(args) != 2 {
		return usage(cmd, "--body wants the COMMAND as well")
	}
	path, err := idPath(cmd, api.PathSessions, args[0])
	if err == nil {
		path, err = idPath(cmd, path+"/bodies", args[1])
	}
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	v, hangUp, err := a.voice(ctx)
	if err != nil {
		return err
	}
	defer hangUp()
	t := &tape{v: v, path: path}
	first, err := t.more(ctx)
	if err != nil {
		return err
	}
	w, done, err := a.create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if _, err := w.Write(first); err != nil || t.ended != "" {
		return err
	}
	return t.each(ctx, func(b []byte) error { _, err := w.Write(b); return err })
}

// create makes a file that was not there; - is standard output.
func (a *app) create(name string) (io.Writer, func() error, error) {
	if name == "-" {
		return a.stdout, func() error { return nil }, nil
	}
	f, err := os.OpenFile(filepath.Clean(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil, api.Because(api.ErrBadRequest, "choose another name", "%s exists, and is not replaced", name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("export: %w", err)
	}
	return f, f.Close, nil
}

// export writes whole lines of a cast, every one of them checked, or the bytes of a file.
func (a *app) export(ctx context.Context, t *tape, name string) (err error) {
	w, done, err := a.create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var check recording.Cast
	var line []byte // that has not ended
	err = t.each(ctx, func(b []byte) error {
		if t.view.Kind == api.RecordingCast {
			if err := check.Feed(b, func(recording.Event) error { return nil }); err != nil {
				return fmt.Errorf("export: the recording is no asciicast: %w", err)
			}
			b = append(line, b...)
			n := bytes.LastIndexByte(b, '\n') + 1
			line = bytes.Clone(b[n:])
			b = b[:n]
		}
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if len(line) > 0 {
		_, _ = fmt.Fprintf(a.stderr, "the last %d bytes are half a line, and were left out\n", len(line)) // a courtesy
	}
	if word := endWord(t.ended); word != "" {
		_, _ = fmt.Fprintln(a.stderr, word) // a courtesy
	}
	return nil
}

// endWord says what to know of how a recording ended; "" where it is all there.
func endWord(ended string) string {
	switch ended {
	case api.ReasonComplete:
		return ""
	case "":
		return "the recording still runs: this is what there is now"
	case api.ReasonInterrupted:
		return "the recording was interrupted: its agent was killed, or could not keep more"
	case api.ReasonSession:
		return "the session ended before what was recorded did"
	}
	return "the recording ended: " + shown(ended)
}

func (a *app) watchCommand() *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use: "watch SESSION [COMMAND]", Short: "Follow a terminal while it runs",
		Long: recordingHelp + `
Shows what is on the terminal a second or two after it was drawn, until it ends. Only what draws reaches your terminal, as with replay. To end what
you see: sallyport sessions end SESSION.`,
		Example: "  sallyport sessions watch 01JD0000000000000000000000",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			v, done, err := a.voice(ctx)
			if err != nil {
				return err
			}
			defer done()
			t, err := awaitTape(ctx, cmd, v, args)
			if err != nil {
				return err
			}
			s := &screen{w: a.stdout, raw: raw}
			err = watch(ctx, t, s)
			err = errors.Join(err, s.reset())
			if word := endWord(t.ended); err == nil && word != "" {
				_, _ = fmt.Fprintln(a.stderr, word) // a courtesy
			}
			return err
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "let every control sequence through to this terminal")
	return c
}

// awaitTape waits for the recording of an open session to begin. Of several, the newest that runs is meant.
func awaitTape(ctx context.Context, cmd *cobra.Command, v voice, args []string) (*tape, error) {
	for {
		s, path, err := recordingsOf(ctx, cmd, v, args[0])
		if err != nil {
			return nil, err
		}
		for i := len(s.Recordings) - 1; i >= 0; i-- {
			r := s.Recordings[i]
			if r.Kind == api.RecordingCast && (len(args) > 1 && string(r.Command) == args[1] || len(args) == 1 && (r.Ended == "" || s.Status != "open")) {
				return &tape{v: v, path: path + "/recordings/" + string(r.Command), view: r}, nil
			}
		}
		if s.Status != "open" {
			return nil, api.Because(api.ErrNotFound, "list what there is: sallyport sessions show "+args[0], "the session is %s and has no such recording of a terminal", s.Status)
		}
		if err := pause(ctx, watchEvery); err != nil {
			return nil, err
		}
	}
}

func watch(ctx context.Context, t *tape, s *screen) error {
	var cast recording.Cast
	for {
		err := t.each(ctx, func(b []byte) error {
			return cast.Feed(b, func(e recording.Event) error {
				if e.Code != "o" {
					return nil
				}
				return s.show(e.Data)
			})
		})
		if err != nil || t.ended != "" {
			return err
		}
		if err := pause(ctx, watchEvery); err != nil {
			return err
		}
	}
}

func (a *app) endCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "end SESSION", Short: "End a session now",
		Long: `End a session: what it runs is cut off within seconds, and nothing more is decided for it. A person may end the sessions of all actors of theirs, an actor its
own and those under it, an administrator everybody's. Who opened it may open another: to keep them out, revoke the actor.`,
		Example: "  sallyport sessions end 01JD0000000000000000000000 --reason 'that is enough'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := idPath(cmd, api.PathSessions, args[0])
			if err != nil {
				return err
			}
			v, done, err := a.voice(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if err := v.Do(cmd.Context(), http.MethodPost, path+"/end", api.EndRequest{Reason: reason}, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "session %s is over; its agent ends it within its next second\n", args[0])
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; whoever is in it, and auditors, read it")
	return c
}

// recordingWords tells what recordings a session has.
func recordingWords(b *strings.Builder, all []api.RecordingView) {
	if len(all) == 0 {
		return
	}
	b.WriteString("\nrecordings\n")
	for _, r := range all {
		ended := r.Ended
		if ended == "" {
			ended = "running"
		}
		fmt.Fprintf(b, "  %s  #%d  %s, %d bytes, from %s, %s  %s\n", r.Command, r.Seq, inline(r.Kind), r.Bytes, clock(r.Started), inline(ended), oneLine(r.Name, 60))
	}
}
