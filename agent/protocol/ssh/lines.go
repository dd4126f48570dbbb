package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// lines is a shell of the room's own: it reads a line, has it decided, and runs it on the host in a shell that ends with it. So what
// runs is what was decided: no alias, function or variable of an earlier line changes it. Only the directory stays.
type lines struct {
	c      *channel
	keys   *keyboard
	cwd    string // on the host; empty: where a login starts
	home   string
	status uint32
	editor *editor   // on a terminal
	script io.Reader // without one
	asked  int
	denied int
}

const welcome = "sallyport: each line is decided by itself and runs in a shell of its own; of what it changes in the shell, only the directory stays\n"

// lines serves a shell line by line, under the permit that opened it.
func (c *channel) lines(parent context.Context, permit *gate.Permit) {
	ctx, abort := context.WithCancelCause(parent)
	defer abort(nil)
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	if c.pty != nil {
		if err := c.record(permit, "shell, line by line", abort); err != nil {
			c.deny(unrecorded(err))
			return
		}
		defer func() { r.taped(c.tape.close()) }()
	}
	if err := permit.Use(); err != nil {
		c.deny(deniedBy(err))
		return
	}
	l := &lines{c: c, keys: c.input(), home: c.l.home()}
	stop := context.AfterFunc(ctx, l.keys.end)
	defer stop()
	if c.pty != nil {
		l.editor = newEditor(c)
		c.say(welcome)
	} else {
		l.script = l.keys.take()
	}
	l.serve(ctx)
	r.result.Status, r.result.Tag = access.StatusOK, fmt.Sprintf("lines %d denied %d", l.asked, l.denied)
	switch {
	case errors.Is(context.Cause(ctx), errGone):
		r.result.Status = access.StatusCancelled
	case ctx.Err() != nil:
		r.result.Status = access.StatusLost
		c.leave(farewell(ctx))
	default:
		c.exit(l.status)
	}
}

// serve takes one statement after the other until the client has no more, says exit, or ctx ends.
func (l *lines) serve(ctx context.Context) {
	for ctx.Err() == nil {
		text, err := l.statement()
		if err != nil && text == "" {
			if l.editor != nil && !errors.Is(err, io.EOF) {
				l.c.say("\nsallyport: " + printable(err.Error()) + "\n")
			}
			return
		}
		if status, ok := leaves(text, l.status); ok {
			l.status = status
			return
		}
		if !l.run(ctx, text) && l.script != nil {
			l.c.say("sallyport: the rest of the script does not run\n")
			return
		}
	}
}

// maxLines bounds one statement: with each line all of it is read again, to see whether it has ended.
const maxLines = 1000

// statement reads lines until they are something that a shell would run. An error with a text is what comes after it.
func (l *lines) statement() (string, error) {
	var text strings.Builder
	for n := 0; ; n++ {
		line, err := l.line(text.Len() > 0)
		if errors.Is(err, errDropped) {
			text.Reset()
			n = 0
			continue
		}
		if err != nil && (l.editor != nil || line == "") {
			return text.String(), err
		}
		text.WriteString(line + "\n")
		whole := text.String()
		switch {
		case len(whole) > maxCommand:
			return "", errors.New("a command has at most 32768 bytes")
		case n > maxLines && text.Len() > 1:
			return "", errors.New("a command has at most 1000 lines")
		case err != nil:
			return whole, err
		case unfinished(whole):
		case strings.TrimSpace(whole) == "":
			text.Reset()
			n = 0
		default:
			return whole, nil
		}
	}
}

// line reads one, without its end.
func (l *lines) line(more bool) (string, error) {
	if l.editor != nil {
		prompt := printable(fmt.Sprintf("%s:%s$ ", l.c.l.s.Target, l.where()))
		if more {
			prompt = "> "
		}
		return l.editor.line(l.c.typing(l.keys.take()), prompt)
	}
	var b []byte
	one := make([]byte, 1)
	for {
		n, err := l.script.Read(one)
		if err != nil {
			return string(b), err
		}
		if n == 1 && one[0] == '\n' {
			return string(b), nil
		}
		if b = append(b, one[:n]...); len(b) > maxCommand {
			return "", errors.New("a line has at most 32768 bytes")
		}
	}
}

// where is the directory as people write it.
func (l *lines) where() string {
	switch rest, below := strings.CutPrefix(l.cwd, l.home+"/"); {
	case l.cwd == "" || l.cwd == l.home:
		return "~"
	case below && l.home != "":
		return "~/" + rest
	}
	return l.cwd
}

// unfinished says whether a shell would read on before it runs anything.
func unfinished(text string) bool {
	if strings.HasSuffix(text, "\\\n") {
		return true
	}
	if readable(text) != "" {
		return false // refused as it is
	}
	_, err := parsed(text)
	return err != nil && syntax.IsIncomplete(err)
}

var errParser = errors.New("the parser failed on it")

// parsed reads a text as a POSIX shell would.
func parsed(text string) (file *syntax.File, err error) {
	defer func() {
		if recover() != nil { // which could only be a fault of the library
			file, err = nil, errParser
		}
	}()
	return syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), "")
}

// simple is a text's one command, where it is no more than that, with every word certain.
func simple(text string, sh shell) []word {
	if readable(text) != "" {
		return nil
	}
	file, err := parsed(text)
	if err != nil || len(file.Stmts) != 1 {
		return nil
	}
	s := file.Stmts[0]
	call, ok := s.Cmd.(*syntax.CallExpr)
	if !ok || !starts(s, call0(call)) {
		return nil
	}
	w := &walker{sh: sh, cwd: sh.cwd}
	words := make([]word, len(call.Args))
	for i, a := range call.Args {
		if words[i] = w.word(a); !words[i].known {
			return nil
		}
	}
	return words
}

func call0(c *syntax.CallExpr) string {
	if len(c.Args) == 0 {
		return ""
	}
	return c.Args[0].Lit()
}

// leaves says whether a text is exit, and with what status.
func leaves(text string, last uint32) (uint32, bool) {
	words := simple(text, shell{})
	if len(words) == 0 || len(words) > 2 || words[0].text != "exit" && words[0].text != "logout" {
		return 0, false
	}
	if len(words) == 1 {
		return last, true
	}
	n, err := strconv.ParseUint(words[1].text, 10, 8)
	return uint32(n), err == nil
}

// moves is the directory to which a text that is one cd leads.
func moves(text string, sh shell) (string, bool) {
	words := simple(text, sh)
	if len(words) == 0 || words[0].text != "cd" {
		return "", false
	}
	w := &walker{sh: sh, cwd: sh.cwd}
	w.cd("cd", words[1:])
	return w.cwd, w.cwd != "" && w.why == ""
}

// command is what runs on the host for a text: in the directory where the lines before it led. to is where it leads itself, once it went well.
func (l *lines) command(text string) (command, to string) {
	sh := l.c.l.shell()
	if l.cwd != "" {
		command, sh.cwd = "cd "+quote(l.cwd)+" || exit\n", l.cwd
	}
	if to, ok := moves(text, sh); ok {
		return "cd " + quote(to) + " || exit", to
	}
	return command + strings.TrimSuffix(text, "\n"), ""
}

// quote writes a word as shells read it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// run decides and runs one statement; false: it was refused.
func (l *lines) run(ctx context.Context, text string) bool {
	c := l.c
	l.asked++
	command, to := l.command(text)
	cmd := analyse(command, c.l.shell())
	cmd.Classes = c.l.classes(&cmd)
	if len(command) > maxCommand {
		cmd.Refused = &access.Refusal{Rule: "ssh.command-too-long", Hint: "a command line has at most 32768 bytes"}
	}
	permit, err := c.ask(ctx, cmd)
	if err != nil {
		if ctx.Err() == nil {
			c.say(refusal(deniedBy(err)))
		}
		l.denied++
		l.status = exitDenied
		return false
	}
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	line, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	e, d := c.perform(line, r, l.job(permit, command, carriesFiles(&cmd), func() { interrupt(errInterrupted) }))
	if d != nil {
		c.say(refusal(d))
		l.status = exitDenied
		return false
	}
	r.conclude(line, e)
	if l.status = e.code(); errors.Is(context.Cause(line), errInterrupted) {
		l.status = 130 // 128 + SIGINT
	}
	if l.status == 0 && to != "" {
		l.cwd = to
	}
	return true
}

// job is a statement on the host: on a terminal like the client's, where its output need not be masked.
func (l *lines) job(permit *gate.Permit, command string, carries bool, interrupt func()) job {
	c := l.c
	j := job{request: "exec", payload: ssh.Marshal(&struct{ Command string }{command}), in: strings.NewReader("")}
	j.out, j.errOut = c.output(permit, carries)
	if l.editor == nil {
		return j
	}
	j.in = c.typing(l.keys.take())
	if len(c.l.masked(permit)) == 0 {
		j.pty = c.pty
		return j
	}
	j.in = &untilInterrupt{from: j.in, stop: interrupt}
	j.out, j.errOut = raw{j.out}, raw{j.errOut}
	return j
}

// raw writes for a terminal that does nothing to what it is sent.
type raw struct{ io.WriteCloser }

func (r raw) Write(b []byte) (int, error) {
	if _, err := r.WriteCloser.Write(bytes.ReplaceAll(b, []byte{'\n'}, []byte{'\r', '\n'})); err != nil {
		return 0, err
	}
	return len(b), nil
}

// untilInterrupt is what a client types to a program without a terminal of its own.
type untilInterrupt struct {
	from io.Reader
	stop func()
}

func (u *untilInterrupt) Read(b []byte) (int, error) {
	n, err := u.from.Read(b)
	for i := range n {
		switch b[i] {
		case '\r':
			b[i] = '\n'
		case ctrlC:
			u.stop()
			return i, io.EOF
		case ctrlD:
			return i, io.EOF
		}
	}
	return n, err
}

const ctrlD = 4

// editor edits lines on the client's terminal.
type editor struct {
	*term.Terminal
	keys *cleanKeys
}

func newEditor(c *channel) *editor {
	keys := &cleanKeys{}
	e := &editor{term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, c.screen()}, ""), keys}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = e.SetSize(int(c.pty.size.Columns), int(c.pty.size.Rows)) // the client is told by what is drawn next
	c.line = func() { _ = e.SetSize(int(c.pty.size.Columns), int(c.pty.size.Rows)) }
	return e
}

var (
	errDropped = errors.New("the line was dropped")
	errKeys    = errors.New("a key that no terminal has")
)

// line reads one line from keys. A pasted one is like any other.
func (e *editor) line(keys io.Reader, prompt string) (string, error) {
	e.keys.from, e.keys.dropped = keys, false
	e.SetPrompt(prompt)
	line, err := e.ReadLine()
	if errors.Is(err, term.ErrPasteIndicator) {
		err = nil
	}
	if err == nil && e.keys.dropped {
		err = errDropped
	}
	return line, err
}

// cleanKeys is what the editor reads: one whole character of UTF-8 at a time, so that what follows a line is left to what the line starts; and
// for Ctrl-C the keys that drop the line.
type cleanKeys struct {
	from    io.Reader
	rest    []byte // read, not given
	dropped bool
}

// dropLine is: to the end, delete to the beginning, enter.
const dropLine = "\x05\x15\r"

func (k *cleanKeys) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, errKeys // a sequence that never ends has filled the editor's buffer
	}
	if len(k.rest) == 0 {
		c, err := k.character()
		if err != nil {
			return 0, err
		}
		k.rest = c
	}
	n := copy(b, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

func (k *cleanKeys) character() ([]byte, error) {
	c := make([]byte, 0, utf8.UTFMax)
	for len(c) == 0 || !utf8.FullRune(c) {
		if _, err := io.ReadFull(k.from, c[len(c):len(c)+1]); err != nil {
			return nil, err
		}
		c = c[:len(c)+1]
	}
	if c[0] == ctrlC {
		k.dropped = true
		return []byte(dropLine), nil
	}
	return bytes.ToValidUTF8(c, []byte{'?'}), nil
}
