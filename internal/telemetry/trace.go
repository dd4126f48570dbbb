package telemetry

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"time"
)

// TraceID is W3C Trace Context's trace-id.
type TraceID [16]byte

// SpanID is W3C Trace Context's parent-id.
type SpanID [8]byte

func (t TraceID) String() string { return hex.EncodeToString(t[:]) }
func (s SpanID) String() string  { return hex.EncodeToString(s[:]) }

// SpanContext is where in a trace something happens. The zero SpanContext is in none.
type SpanContext struct {
	Trace   TraceID
	Span    SpanID
	Sampled bool
}

// ParseTraceparent reads the header of W3C Trace Context (https://www.w3.org/TR/trace-context-1/#traceparent-header): a trace that somebody else
// began. Anything else is no trace.
func ParseTraceparent(s string) (SpanContext, bool) {
	var c SpanContext
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" || len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return c, false
	}
	var version, flags [1]byte
	for _, p := range []struct {
		to   []byte
		from string
	}{{version[:], s[:2]}, {c.Trace[:], s[3:35]}, {c.Span[:], s[36:52]}, {flags[:], s[53:55]}} {
		for _, r := range p.from {
			if r >= 'A' && r <= 'F' {
				return SpanContext{}, false
			}
		}
		if _, err := hex.Decode(p.to, []byte(p.from)); err != nil {
			return SpanContext{}, false
		}
	}
	if c.Trace == (TraceID{}) || c.Span == (SpanID{}) {
		return SpanContext{}, false
	}
	c.Sampled = flags[0]&1 == 1
	return c, true
}

// Traceparent is the header for whoever is called within the span.
func (c SpanContext) Traceparent() string {
	flags := "-00"
	if c.Sampled {
		flags = "-01"
	}
	return "00-" + c.Trace.String() + "-" + c.Span.String() + flags
}

// Kind of a span, by OTLP's numbers.
type Kind int

// Kinds.
const (
	KindInternal Kind = 1
	KindServer   Kind = 2
	KindClient   Kind = 3
)

// maxAttributes bounds a span.
const maxAttributes = 32

// Span is a stretch of time in a trace. Methods of a nil *Span do nothing.
type Span struct {
	context SpanContext
	parent  SpanID
	name    string
	kind    Kind
	start   time.Time
	end     time.Time
	failed  bool
	to      *exporter

	mu         sync.Mutex
	attributes []attribute
}

type attribute struct {
	key   string
	value any // string or float64
}

// Set notes a name, an id or a number; texts of commands and their like have no place here. Others than string and float64 are not taken.
func (s *Span) Set(key string, v any) {
	if s == nil {
		return
	}
	switch x := v.(type) {
	case string:
		v = clean(x)
	case float64:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.attributes) < maxAttributes {
		s.attributes = append(s.attributes, attribute{key, v})
	}
}

// Context is for the traceparent of what is called within.
func (s *Span) Context() SpanContext {
	if s == nil {
		return SpanContext{}
	}
	return s.context
}

func (s *Span) finish(at time.Time, failed bool) {
	if s == nil || !s.context.Sampled {
		return
	}
	s.end, s.failed = at, failed
	s.to.add(s)
}

type spanKey struct{}

func withSpan(ctx context.Context, s *Span) context.Context {
	return context.WithValue(ctx, spanKey{}, s)
}

// Start begins a span within the context's own, as a call to somebody else or as a part of the work. end must be called once; failed says how it went.
func (t *Telemetry) Start(ctx context.Context, name string, kind Kind) (inner context.Context, s *Span, end func(failed bool)) {
	if t == nil || t.spans == nil {
		return ctx, nil, func(bool) {}
	}
	outer, _ := ctx.Value(spanKey{}).(*Span)
	s = t.spans.start(name, kind, outer.Context(), t.c.Now())
	return withSpan(ctx, s), s, func(failed bool) { s.finish(t.c.Now(), failed) }
}

func (e *exporter) start(name string, kind Kind, parent SpanContext, at time.Time) *Span {
	s := &Span{name: name, kind: kind, start: at, to: e, parent: parent.Span}
	s.context.Trace, s.context.Sampled = parent.Trace, parent.Sampled
	if parent.Trace == (TraceID{}) {
		_, _ = crand.Read(s.context.Trace[:]) // never fails: the runtime ends the process first
		s.context.Sampled = rand.Float64() < e.ratio
	}
	_, _ = crand.Read(s.context.Span[:])
	return s
}
