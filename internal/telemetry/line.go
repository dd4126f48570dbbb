package telemetry

import (
	"context"
	"log/slog"
	"regexp"
	"strings"
)

// handler puts the ids of a call on its lines, and keeps what must not be there off all of them.
type handler struct {
	inner slog.Handler
	t     *Telemetry
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, clean(r.Message), r.PC)
	c := CallOf(ctx)
	if c == nil && h.t.c.Single {
		c = h.t.current.Load()
	}
	if c != nil {
		out.AddAttrs(slog.String("request", c.Request))
		if s := c.span; s != nil {
			out.AddAttrs(slog.String("trace", s.context.Trace.String()))
		}
	}
	if cmd, ok := ctx.Value(commandKey{}).(command); ok {
		out.AddAttrs(slog.String("session", cmd.session), slog.String("command", cmd.command))
	}
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(cleanAttr(a))
		return true
	})
	return h.inner.Handle(ctx, out)
}

func (h handler) WithAttrs(as []slog.Attr) slog.Handler {
	own := make([]slog.Attr, len(as))
	for i, a := range as {
		own[i] = cleanAttr(a)
	}
	return handler{h.inner.WithAttrs(own), h.t}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.inner.WithGroup(name), h.t} }

// cleanAttr cleans what is text, or becomes it.
func cleanAttr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, clean(v.String()))
	case slog.KindGroup:
		as := v.Group()
		own := make([]slog.Attr, len(as))
		for i, x := range as {
			own[i] = cleanAttr(x)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(own...)}
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return slog.String(a.Key, clean(err.Error()))
		}
	}
	return slog.Attr{Key: a.Key, Value: v}
}

// maxText bounds one text of a line: an error that quotes what it could not read must not carry it all.
const maxText = 2 << 10

// tokens are what our tokens look like: JWS in compact form, join tokens, an Authorization header.
var tokens = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}|sallyport-join-[A-Za-z0-9_-]+|(?i:bearer|dpop) [A-Za-z0-9._~+/-]{16,}=*`)

// clean cuts out of a text what looks like a token, and what is too much.
func clean(s string) string {
	if strings.Contains(s, "eyJ") || strings.Contains(s, "sallyport-join-") || strings.Contains(s, " ") && len(s) > 20 {
		s = tokens.ReplaceAllString(s, "[token]")
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// metric and directive are CloudWatch's embedded metric format: a line that names its own figures.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
type (
	metric struct {
		Name string
		Unit string
	}
	directive struct {
		Namespace  string
		Dimensions [][]string
		Metrics    []metric
	}
	embedded struct {
		Timestamp         int64
		CloudWatchMetrics []directive
	}
)

const (
	namespace = "Sallyport"
	dimension = "Function"
)

// embed is a call's figures, as attributes of its line.
func (t *Telemetry) embed(figures map[Figure]float64) []slog.Attr {
	if len(figures) == 0 {
		return nil
	}
	var out []slog.Attr
	d := directive{Namespace: namespace, Dimensions: [][]string{{dimension}}}
	for f, v := range figures {
		out = append(out, slog.Float64(string(f), v))
		d.Metrics = append(d.Metrics, metric{string(f), units[f]})
	}
	if !t.c.Figures {
		return out
	}
	return append(out, slog.String(dimension, t.c.Function), slog.Any("_aws", embedded{t.c.Now().UnixMilli(), []directive{d}}))
}
