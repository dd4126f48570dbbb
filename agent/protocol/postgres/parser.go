package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"
	"google.golang.org/protobuf/proto"
)

// The grammar is C. It runs in processes of its own, so that a text that breaks it (a fault, a stack that overflows, memory without end)
// costs the statement that it is and nothing else: the process ends, its successor starts with the next text.

// Limits of one text in the parser. A tree, encoded, is some 8 times its text, or as long as its literals; maxTokens parse within 3 s on a busy
// machine.
const (
	maxTree   = 64 << 20
	parseWait = 10 * time.Second
	// parserProcesses is how many there are: a text takes some 50 µs, and what is repeated is not parsed again.
	parserProcesses = 2
)

// errParserEnded says that the process that parses ended over a text.
var errParserEnded = errors.New("the parser ended")

// grammar reads a text into its syntax tree.
type grammar interface {
	parse(text string) (*pg.ParseResult, error)
}

// parsers is a pool of processes that parse. They start when they are needed, and end with this process.
type parsers struct {
	command []string
	idle    chan *parserProcess // holds as many as there may be; nil for one that is not started
}

func newParsers(command []string, n int) *parsers {
	p := &parsers{command: command, idle: make(chan *parserProcess, n)}
	for range n {
		p.idle <- nil
	}
	return p
}

func (p *parsers) parse(text string) (*pg.ParseResult, error) {
	if len(text) > maxTree {
		return nil, fmt.Errorf("parse: text of %d bytes", len(text))
	}
	w := <-p.idle
	defer func() { p.idle <- w }()
	if w == nil {
		var err error
		if w, err = startParser(p.command); err != nil {
			return nil, fmt.Errorf("%w: %w", errParserEnded, err)
		}
	}
	tree, err := w.ask(text)
	if errors.Is(err, errParserEnded) {
		w.kill()
		w = nil
	}
	return tree, err
}

// close ends what is idle. Nothing may parse any more.
func (p *parsers) close() {
	for range cap(p.idle) {
		if w := <-p.idle; w != nil {
			w.kill()
		}
	}
}

type parserProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
	buf []byte
}

func startParser(command []string) (*parserProcess, error) {
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // this binary's own path, from the agent's main
	cmd.Env, cmd.Dir = []string{}, "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &parserProcess{cmd: cmd, in: in, out: out}, cmd.Start()
}

func (w *parserProcess) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait() // how it ended is of no use: it was killed, or its text is refused
}

// ask sends one text: its length and itself. The answer is a byte (0 for a tree, 1 for an error), a length, and that.
func (w *parserProcess) ask(text string) (*pg.ParseResult, error) {
	late := time.AfterFunc(parseWait, func() { _ = w.cmd.Process.Kill() })
	defer late.Stop()
	w.buf = binary.BigEndian.AppendUint32(w.buf[:0], uint32(len(text)))
	w.buf = append(w.buf, text...)
	if _, err := w.in.Write(w.buf); err != nil {
		return nil, fmt.Errorf("%w: %w", errParserEnded, err)
	}
	ok, body, err := readAnswer(w.out, w.buf[:0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errParserEnded, err)
	}
	if w.buf = body[:0]; cap(w.buf) > 1<<20 {
		w.buf = nil // one large text must not keep its memory
	}
	if !ok {
		return nil, fmt.Errorf("parse: %s", body)
	}
	tree := &pg.ParseResult{}
	if err := proto.Unmarshal(body, tree); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	return tree, nil
}

func readAnswer(r io.Reader, buf []byte) (ok bool, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if head[0] > 1 || n > maxTree {
		return false, nil, fmt.Errorf("answer %d of %d bytes", head[0], n)
	}
	if uint32(cap(buf)) < n {
		buf = make([]byte, n)
	}
	body = buf[:n]
	_, err = io.ReadFull(r, body)
	return head[0] == 0, body, err
}

// ParserMain is the whole of a process that parses: texts come on in, trees go out on out, until in ends.
func ParserMain(in io.Reader, out io.Writer) error {
	if err := confine(); err != nil {
		return fmt.Errorf("parser: %w", err)
	}
	var buf []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("parser: %w", err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxTree {
			return fmt.Errorf("parser: text of %d bytes", n)
		}
		if uint32(cap(buf)) < n {
			buf = make([]byte, n)
		}
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return fmt.Errorf("parser: %w", err)
		}
		if _, err := out.Write(parsed(string(buf[:n]))); err != nil {
			return fmt.Errorf("parser: %w", err)
		}
		if n > 1<<20 {
			buf = nil
		}
	}
}

func parsed(text string) []byte {
	status := byte(0)
	body, err := parser.ParseToProtobuf(text)
	if err != nil {
		status, body = 1, []byte(err.Error())
	}
	if len(body) > maxTree {
		status, body = 1, []byte("the tree is too large")
	}
	answer := make([]byte, 0, 5+len(body))
	answer = binary.BigEndian.AppendUint32(append(answer, status), uint32(len(body)))
	return append(answer, body...)
}
