package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// exporter gives spans to a collector: OTLP over HTTP in JSON (https://opentelemetry.io/docs/specs/otlp/#otlphttp). It is written here because
// go.opentelemetry.io's own adds 2.7 MB to a function's zip (7.7 MB to its binary), through gRPC and its gateway, for one POST.
type exporter struct {
	url     string
	headers http.Header
	service string
	ratio   float64 // of the traces that begin here
	http    *http.Client

	mu      sync.Mutex
	waiting []*Span
	dropped int // since the last that was sent
}

const (
	maxWaiting  = 2048 // spans; OpenTelemetry's own default. What comes on top is dropped and counted
	exportLimit = 500 * time.Millisecond
	// exportEvery is how often a process that runs on sends.
	exportEvery = time.Second
)

// newExporter reads OpenTelemetry's own settings; without an endpoint nobody takes spans and the exporter is nil.
func newExporter(service string, getenv func(string) string) (*exporter, error) {
	base := getenv("OTEL_EXPORTER_OTLP_ENDPOINT")
	if base == "" {
		return nil, nil //nolint:nilnil // nobody takes spans
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: want a URL")
	}
	ip := net.ParseIP(u.Hostname())
	if local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: want https, or http on loopback")
	}
	e := &exporter{url: strings.TrimSuffix(base, "/") + "/v1/traces", headers: http.Header{}, service: service, ratio: 1}
	if name := getenv("OTEL_SERVICE_NAME"); name != "" {
		e.service = name
	}
	for part := range strings.SplitSeq(getenv("OTEL_EXPORTER_OTLP_HEADERS"), ",") {
		if part == "" {
			continue
		}
		k, v, ok := strings.Cut(part, "=")
		v, err := url.PathUnescape(strings.TrimSpace(v))
		if k = strings.TrimSpace(k); !ok || k == "" || err != nil || strings.ContainsAny(k+v, "\r\n") {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS: want NAME=VALUE, separated by commas")
		}
		e.headers.Set(k, v)
	}
	if v := getenv("OTEL_TRACES_SAMPLER_ARG"); v != "" {
		if e.ratio, err = strconv.ParseFloat(v, 64); err != nil || !(e.ratio >= 0 && e.ratio <= 1) {
			return nil, errors.New("OTEL_TRACES_SAMPLER_ARG: want a number from 0 to 1")
		}
	}
	e.http = &http.Client{Timeout: exportLimit, Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return e, nil
}

func (e *exporter) add(s *Span) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) >= maxWaiting {
		e.dropped++
		return
	}
	e.waiting = append(e.waiting, s)
}

// Flush sends the spans that wait. A function calls it before it is frozen; what is not taken within half a second is lost, and said so.
func (t *Telemetry) Flush(ctx context.Context) {
	if t == nil || t.spans == nil {
		return
	}
	if err := t.spans.send(ctx); err != nil {
		t.log.WarnContext(ctx, "spans were not taken", "error", err)
	}
}

// Keep sends spans until ctx ends, and once more after it.
func (t *Telemetry) Keep(ctx context.Context) {
	if t == nil || t.spans == nil {
		return
	}
	defer t.spans.http.CloseIdleConnections()
	tick := time.NewTicker(exportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.Flush(context.WithoutCancel(ctx))
			return
		case <-tick.C:
			t.Flush(ctx)
		}
	}
}

func (e *exporter) send(ctx context.Context) error {
	e.mu.Lock()
	spans, dropped := e.waiting, e.dropped
	e.waiting, e.dropped = nil, 0
	e.mu.Unlock()
	if len(spans) == 0 {
		return nil
	}
	body, err := json.Marshal(e.encode(spans))
	if err != nil {
		return fmt.Errorf("export spans: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("export spans: %w", err)
	}
	req.Header = e.headers.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		return fmt.Errorf("export %d spans: %w", len(spans), err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("export %d spans: the collector answered with status %d", len(spans), resp.StatusCode)
	}
	if dropped > 0 {
		return fmt.Errorf("%d spans were dropped: more than %d waited", dropped, maxWaiting)
	}
	return nil
}

// The messages of opentelemetry/proto/collector/trace/v1, in the JSON that OTLP gives them: ids in hex, 64-bit integers as text.
type (
	anyValue struct {
		String *string  `json:"stringValue,omitempty"`
		Double *float64 `json:"doubleValue,omitempty"`
	}
	keyValue struct {
		Key   string   `json:"key"`
		Value anyValue `json:"value"`
	}
	otlpStatus struct {
		Code int `json:"code"` // 0 unset, 2 error
	}
	otlpSpan struct {
		TraceID    string     `json:"traceId"`
		SpanID     string     `json:"spanId"`
		Parent     string     `json:"parentSpanId,omitempty"`
		Name       string     `json:"name"`
		Kind       int        `json:"kind"`
		Start      string     `json:"startTimeUnixNano"`
		End        string     `json:"endTimeUnixNano"`
		Attributes []keyValue `json:"attributes,omitempty"`
		Status     otlpStatus `json:"status"`
		Flags      uint32     `json:"flags"`
	}
	scope struct {
		Name string `json:"name"`
	}
	scopeSpans struct {
		Scope scope      `json:"scope"`
		Spans []otlpSpan `json:"spans"`
	}
	resource struct {
		Attributes []keyValue `json:"attributes"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	exportRequest struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
)

func text(k, v string) keyValue { return keyValue{k, anyValue{String: &v}} }

func (e *exporter) encode(spans []*Span) exportRequest {
	out := make([]otlpSpan, len(spans))
	for i, s := range spans {
		s.mu.Lock()
		o := otlpSpan{TraceID: s.context.Trace.String(), SpanID: s.context.Span.String(), Name: s.name, Kind: int(s.kind),
			Start: strconv.FormatInt(s.start.UnixNano(), 10), End: strconv.FormatInt(s.end.UnixNano(), 10), Flags: 1}
		if s.parent != (SpanID{}) {
			o.Parent = s.parent.String()
		}
		if s.failed {
			o.Status.Code = 2
		}
		for _, a := range s.attributes {
			switch v := a.value.(type) {
			case string:
				o.Attributes = append(o.Attributes, text(a.key, v))
			case float64:
				o.Attributes = append(o.Attributes, keyValue{a.key, anyValue{Double: &v}})
			}
		}
		s.mu.Unlock()
		out[i] = o
	}
	return exportRequest{[]resourceSpans{{Resource: resource{[]keyValue{text("service.name", e.service), text("service.namespace", "sallyport")}},
		ScopeSpans: []scopeSpans{{Scope: scope{"github.com/sallyport/sallyport"}, Spans: out}}}}}
}
