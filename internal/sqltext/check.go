package sqltext

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits bound a text. The zero value refuses every text but the empty one.
type Limits struct {
	Bytes      int // length of the text
	Tokens     int // regions that are neither white space nor comments
	Statements int // separated by ';'
	Depth      int // nested brackets and CASEs
	// Chain bounds how deep the syntax tree can become by operators that follow each other ("1+1+1…", "NOT NOT…", joins),
	// summed over the nesting. libpg_query recurses on the C stack once per link: about 15,000 of them end the process on an
	// 8 MiB stack (measured), so this is checked before it is called.
	Chain int
}

// Default is what a message may be: 1 MiB as the design's default, the rest far above what people and ORMs write.
var Default = Limits{Bytes: 1 << 20, Tokens: 200_000, Statements: 256, Depth: 400, Chain: 2000}

// ErrLimit is wrapped by Check's errors about size; a text that is not UTF-8 or holds a NUL byte is ErrEncoding.
var (
	ErrLimit    = errors.New("over the limit")
	ErrEncoding = errors.New("not valid UTF-8")
)

// Check holds text to l. It takes time linear in the text and never calls a parser.
func Check(text string, l Limits) error {
	if len(text) > l.Bytes {
		return fmt.Errorf("text of %d bytes: %w of %d", len(text), ErrLimit, l.Bytes)
	}
	if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("text: %w", ErrEncoding)
	}
	c := checker{limits: l, text: text, frames: make([]frame, 1, 16)}
	for s := NewScanner(text); ; {
		r, ok := s.Next()
		if !ok {
			return nil
		}
		if r.Kind == Space || r.Kind == Comment {
			continue
		}
		if err := c.token(r); err != nil {
			return err
		}
	}
}

// frame is one level of nesting. fixed counts links that nothing on the level takes back (set operations, joins); links counts
// operators since the last separator.
type frame struct {
	links, fixed, between int
	isCase                bool
}

type checker struct {
	limits     Limits
	text       string
	frames     []frame
	outer      int // links of all frames but the last
	tokens     int
	statements int
	begun      bool // the statement has a token
	dotted     bool // the last token was '.' or AS: a name follows, not a keyword
}

func (c *checker) token(r Region) error {
	if c.tokens++; c.tokens > c.limits.Tokens {
		return fmt.Errorf("tokens: %w of %d", ErrLimit, c.limits.Tokens)
	}
	if !c.begun && c.text[r.Start] != ';' {
		c.begun = true
		if c.statements++; c.statements > c.limits.Statements {
			return fmt.Errorf("statements: %w of %d", ErrLimit, c.limits.Statements)
		}
	}
	dotted := c.dotted
	c.dotted = false
	switch {
	case r.Kind == Punct:
		c.punct(c.text[r.Start])
	case r.Kind == Word && !dotted:
		c.word(c.text[r.Start:r.End])
	}
	top := c.frames[len(c.frames)-1]
	if len(c.frames)-1 > c.limits.Depth {
		return fmt.Errorf("nesting: %w of %d", ErrLimit, c.limits.Depth)
	}
	if c.outer+top.links+top.fixed > c.limits.Chain {
		return fmt.Errorf("chained operators: %w of %d", ErrLimit, c.limits.Chain)
	}
	return nil
}

func (c *checker) punct(b byte) {
	top := &c.frames[len(c.frames)-1]
	switch b {
	case '(', '[':
		c.push(frame{})
	case ')', ']':
		for len(c.frames) > 1 && c.frames[len(c.frames)-1].isCase {
			c.pop()
		}
		c.pop()
	case ',':
		top.links, top.between = 0, 0
	case ';':
		if len(c.frames) == 1 {
			*top, c.begun = frame{}, false
		}
	case '.':
		c.dotted = true
	default:
		top.links++
	}
}

func (c *checker) word(w string) {
	if len(w) > 9 {
		return
	}
	top := &c.frames[len(c.frames)-1]
	switch strings.ToLower(w) {
	case "as":
		c.dotted = true
	case "case":
		c.push(frame{isCase: true})
	case "end":
		if top.isCase {
			c.pop()
		}
	case "and":
		// The AND of a BETWEEN ends nothing.
		if top.between > 0 {
			top.between--
		} else {
			top.links = 0
		}
	case "or":
		top.links, top.between = 0, 0
	case "between":
		top.between++
		top.links++
	case "not", "is", "isnull", "notnull", "in", "like", "ilike", "similar", "collate", "at", "operator", "overlaps":
		top.links++
	case "join", "union", "except", "intersect":
		top.fixed++
	}
}

func (c *checker) push(f frame) {
	top := c.frames[len(c.frames)-1]
	c.outer += top.links + top.fixed
	c.frames = append(c.frames, f)
}

func (c *checker) pop() {
	if len(c.frames) == 1 {
		return
	}
	c.frames = c.frames[:len(c.frames)-1]
	top := c.frames[len(c.frames)-1]
	c.outer -= top.links + top.fixed
}
