package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// maxLine bounds one line of a cast before it is decoded: a chunk's worth of output, with JSON's escapes.
const maxLine = 2 << 20

// Header is the first line of an asciicast, version 2 (https://docs.asciinema.org/manual/asciicast/v2/). What else may be in it is not
// kept.
type Header struct {
	Version   int    `json:"version"`
	Width     int    `json:"width"`
	Height    int    `json:"height"`
	Timestamp int64  `json:"timestamp,omitempty"`
	Title     string `json:"title,omitempty"`
}

// Event is a line after the header.
type Event struct {
	Time float64 // seconds since the recording began
	Code string  // "o" output, "i" input, "r" resize, "m" marker
	Data string
}

// Cast reads an asciicast as it comes, in any cut. The zero Cast is at the beginning.
type Cast struct {
	Header Header // once the first line was there
	begun  bool
	rest   []byte
	last   float64
}

// Resume reads on after a part that is not read: what comes is events.
func (c *Cast) Resume() { c.begun = true }

// Begun says whether the header was there.
func (c *Cast) Begun() bool { return c.begun }

// Rest is how many bytes of an unfinished line are left: at the end of a whole recording, none.
func (c *Cast) Rest() int { return len(c.rest) }

// Feed reads what b completes and hands over each event, in order. A line that is none is an error, and the end.
func (c *Cast) Feed(b []byte, each func(Event) error) error {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n')
		if n < 0 {
			if len(c.rest)+len(b) > maxLine {
				return fmt.Errorf("cast: a line over %d bytes", maxLine)
			}
			c.rest = append(c.rest, b...)
			return nil
		}
		line := b[:n]
		b = b[n+1:]
		if len(c.rest)+len(line) > maxLine {
			return fmt.Errorf("cast: a line over %d bytes", maxLine)
		}
		if len(c.rest) > 0 {
			line, c.rest = append(c.rest, line...), nil
		}
		if err := c.line(line, each); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cast) line(line []byte, each func(Event) error) error {
	if !c.begun {
		var h Header
		if err := json.Unmarshal(line, &h); err != nil {
			return fmt.Errorf("cast header: %w", err)
		}
		if h.Version != 2 {
			return fmt.Errorf("cast header: version %d, want 2", h.Version)
		}
		if h.Width < 0 || h.Height < 0 || h.Width > math.MaxUint16 || h.Height > math.MaxUint16 {
			return errors.New("cast header: no such screen")
		}
		c.Header, c.begun = h, true
		return nil
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	var e Event
	parts := []any{&e.Time, &e.Code, &e.Data}
	if err := json.Unmarshal(line, &parts); err != nil {
		return fmt.Errorf("cast event: %w", err)
	}
	if len(parts) != 3 || parts[0] != any(&e.Time) || parts[1] != any(&e.Code) || parts[2] != any(&e.Data) || e.Time < 0 {
		return errors.New("cast event: want [seconds, code, data]")
	}
	c.last = max(c.last, e.Time) // time does not go back
	e.Time = c.last
	return each(e)
}
