package ssh

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/agent/protocol"
)

// cast writes what happens on a terminal as asciicast version 2 (https://docs.asciinema.org/manual/asciicast/v2/): a header, then one line
// for each event. Nil records nothing. It is safe for concurrent use; after the first error every call fails.
type cast struct {
	started time.Time
	now     func() time.Time
	input   bool

	mu   sync.Mutex
	w    protocol.Recording
	rest map[string][]byte // of each kind of event: the beginning of a character whose end has not come yet
	err  error
}

// newCast begins a recording with its header.
func newCast(w protocol.Recording, p *pty, title string, input bool, now func() time.Time) (*cast, error) {
	c := &cast{started: now(), now: now, input: input, w: w, rest: map[string][]byte{}}
	header, err := json.Marshal(struct {
		Version   int               `json:"version"`
		Width     uint32            `json:"width"`
		Height    uint32            `json:"height"`
		Timestamp int64             `json:"timestamp"`
		Title     string            `json:"title"`
		Env       map[string]string `json:"env"`
	}{2, p.size.Columns, p.size.Rows, c.started.Unix(), title, map[string]string{"TERM": p.term}})
	if err == nil {
		_, err = w.Write(append(header, '\n'))
	}
	return c, err
}

// Events of asciicast.
const (
	eventOutput = "o"
	eventInput  = "i"
	eventResize = "r"
)

func (c *cast) output(b []byte) error { return c.bytes(eventOutput, b) }

func (c *cast) typed(b []byte) error {
	if c == nil || !c.input {
		return nil
	}
	return c.bytes(eventInput, b)
}

func (c *cast) resize(s size) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.event(eventResize, fmt.Sprintf("%dx%d", s.Columns, s.Rows))
}

// bytes adds output or input. Characters are whole; what is none is shown as what players show for it.
func (c *cast) bytes(kind string, b []byte) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if rest := c.rest[kind]; len(rest) > 0 {
		b = append(rest, b...)
	}
	whole := len(b)
	for cut := 1; cut < utf8.UTFMax && cut <= len(b); cut++ {
		if utf8.RuneStart(b[len(b)-cut]) {
			if !utf8.FullRune(b[len(b)-cut:]) {
				whole = len(b) - cut
			}
			break
		}
	}
	c.rest[kind] = append([]byte(nil), b[whole:]...)
	if whole == 0 {
		return c.err
	}
	return c.event(kind, string(b[:whole]))
}

// event writes one line. The caller has the lock.
func (c *cast) event(kind, data string) error {
	if c.err != nil {
		return c.err
	}
	line, err := json.Marshal([]any{json.Number(fmt.Sprintf("%.6f", c.now().Sub(c.started).Seconds())), kind, data})
	if err == nil {
		_, err = c.w.Write(append(line, '\n'))
	}
	c.err = err
	return err
}

// close ends the recording. A character that never ended is there as its bytes allow.
func (c *cast) close() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kind := range []string{eventOutput, eventInput} {
		if rest := c.rest[kind]; len(rest) > 0 && c.err == nil {
			_ = c.event(kind, string(rest)) // kept in c.err
		}
	}
	if c.err != nil {
		return c.err // not closed: it is not whole
	}
	return c.w.Close()
}
