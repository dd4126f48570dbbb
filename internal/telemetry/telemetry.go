// Package telemetry is what a process tells about itself: lines of JSON with the ids of the call, figures in them, and traces where somebody takes them.
// It refuses to carry a command's text or a secret: names, ids, counts and durations are all that it takes, and what looks like a token is cut out.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config says who tells, and to whom. Function is required.
type Config struct {
	Function string              // names the process: the dimension of its figures, the service of its spans
	Getenv   func(string) string // for OTEL_EXPORTER_OTLP_ENDPOINT and its like; nil: no traces
	Out      io.Writer           // of the lines; nil: os.Stderr
	Log      slog.Handler        // in place of Out
	Figures  bool                // write figures in CloudWatch's embedded metric format
	// Single says that one call at a time is served, as in Lambda: then lines that were written without the call's context carry its ids, too.
	Single bool
	Level  slog.Level       // of Out; the zero is Info
	Now    func() time.Time // nil: time.Now
}

// Telemetry is one process's. Methods of a nil *Telemetry do nothing.
type Telemetry struct {
	c       Config
	log     *slog.Logger
	current atomic.Pointer[Call] // with Single
	spans   *exporter            // nil: nobody takes them
}

// New checks the configuration. A wrong address of the collector is an error: traces that go nowhere in silence help nobody.
func New(c Config) (*Telemetry, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Out == nil {
		c.Out = os.Stderr
	}
	if c.Log == nil {
		c.Log = slog.NewJSONHandler(c.Out, &slog.HandlerOptions{Level: c.Level})
	}
	t := &Telemetry{c: c}
	t.log = slog.New(handler{inner: c.Log, t: t})
	if c.Getenv == nil {
		return t, nil
	}
	var err error
	t.spans, err = newExporter(c.Function, c.Getenv)
	return t, err
}

// Log is for everybody in the process.
func (t *Telemetry) Log() *slog.Logger {
	if t == nil {
		return slog.New(slog.DiscardHandler)
	}
	return t.log
}

// Call is one call under way: an HTTP request, an event, a run of a schedule. Its context carries it to lines, figures and spans.
type Call struct {
	Request string // id: AWS's own, or one of ours
	start   time.Time
	span    *Span

	mu      sync.Mutex
	figures map[Figure]float64
}

type callKey struct{}

type command struct{ session, command string }

type commandKey struct{}

// CallOf is the call of a context; nil where there is none.
func CallOf(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// InCommand says that what follows is about one command of a session.
func InCommand(ctx context.Context, session, id string) context.Context {
	return context.WithValue(ctx, commandKey{}, command{session, id})
}

// Figure names something that is counted or measured.
type Figure string

// Figures, each with its unit and with how two of one call become one.
const (
	Decisions             Figure = "Decisions"
	Denials               Figure = "Denials"
	HeldCommands          Figure = "HeldCommands"
	ApprovalsPending      Figure = "ApprovalsPending"
	OldestApprovalSeconds Figure = "OldestApprovalSeconds"
	DeliveriesFailed      Figure = "DeliveriesFailed"
	CheckpointAgeSeconds  Figure = "CheckpointAgeSeconds"
	SpoolBytes            Figure = "SpoolBytes"
	SpoolOldestSeconds    Figure = "SpoolOldestSeconds"
)

var units = map[Figure]string{Decisions: "Count", Denials: "Count", HeldCommands: "Count", ApprovalsPending: "Count", OldestApprovalSeconds: "Seconds", DeliveriesFailed: "Count",
	CheckpointAgeSeconds: "Seconds", SpoolBytes: "Bytes", SpoolOldestSeconds: "Seconds"}

// Add adds to a figure of the context's call. Without a call nobody counts.
func Add(ctx context.Context, f Figure, n float64) {
	set(ctx, f, func(old float64) float64 { return old + n })
}

// Most keeps the largest of what a call measures.
func Most(ctx context.Context, f Figure, v float64) {
	set(ctx, f, func(old float64) float64 { return max(old, v) })
}

func set(ctx context.Context, f Figure, change func(float64) float64) {
	c := CallOf(ctx)
	if c == nil || units[f] == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.figures == nil {
		c.figures = map[Figure]float64{}
	}
	c.figures[f] = change(c.figures[f])
}

// begin makes a call. end must be called once.
func (t *Telemetry) begin(ctx context.Context, request, name string, parent SpanContext) (context.Context, *Call) {
	c := &Call{Request: request, start: t.c.Now()}
	if t.spans != nil {
		c.span = t.spans.start(name, KindServer, parent, c.start)
		ctx = withSpan(ctx, c.span)
	}
	if t.c.Single {
		t.current.Store(c)
	}
	return context.WithValue(ctx, callKey{}, c), c
}

// slow is from when on a call that has no figures and did not fail is worth a line at the usual level.
const slow = time.Second

// end writes the call's own line, with its figures, and gives its span away.
func (t *Telemetry) end(ctx context.Context, c *Call, failed bool, attrs ...slog.Attr) {
	took := t.c.Now().Sub(c.start)
	level := slog.LevelDebug
	c.mu.Lock()
	figures := c.figures
	c.mu.Unlock()
	if failed || len(figures) > 0 || took > slow {
		level = slog.LevelInfo
	}
	attrs = append(attrs, slog.Float64("ms", float64(took.Microseconds())/1000))
	t.log.LogAttrs(ctx, level, "call", append(attrs, t.embed(figures)...)...)
	if c.span != nil {
		for f, v := range figures {
			c.span.Set(string(f), v)
		}
		c.span.finish(t.c.Now(), failed)
	}
}

// Run is one run of something that is no HTTP request.
func (t *Telemetry) Run(ctx context.Context, request, name string, f func(context.Context) error) error {
	if t == nil {
		return f(ctx)
	}
	if request == "" {
		request = newRequest()
	}
	ctx, c := t.begin(ctx, request, name, SpanContext{})
	err := f(ctx)
	if err != nil {
		t.log.LogAttrs(ctx, slog.LevelError, name, slog.Any("error", err))
	}
	t.end(ctx, c, err != nil, slog.String("run", name))
	return err
}
