package measure

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/localstack/child"
)

// hostLimit is for a function to start, and to answer.
const hostLimit = 20 * time.Second

// Host is Lambda's runtime API for one process of one function, on loopback. One caller at a time.
type Host struct {
	// Init is the time from the start of the process to its first question for an event, as this host saw it.
	Init time.Duration

	served *Served
	cmd    *exec.Cmd
	log    bytes.Buffer // read when ended is closed
	ended  chan struct{}
	asked  chan struct{} // capacity 1: the function waits for an event
	events chan []byte
	answer chan answered
}

type answered struct {
	failed bool
	body   []byte
}

// StartHost runs a binary as Lambda does, with nothing but these variables, until its first question.
func StartHost(binary string, vars map[string]string) (*Host, error) {
	h := &Host{ended: make(chan struct{}), asked: make(chan struct{}, 1), events: make(chan []byte), answer: make(chan answered, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", h.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", func(w http.ResponseWriter, r *http.Request) { h.take(w, r, false) })
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", func(w http.ResponseWriter, r *http.Request) { h.take(w, r, true) })
	var err error
	if h.served, err = Serve(mux); err != nil {
		return nil, err
	}
	h.cmd = exec.Command(binary)
	h.cmd.Env = []string{"AWS_LAMBDA_RUNTIME_API=" + strings.TrimPrefix(h.served.URL, "http://")}
	for k, v := range vars {
		h.cmd.Env = append(h.cmd.Env, k+"="+v)
	}
	h.cmd.Stdout, h.cmd.Stderr, h.cmd.SysProcAttr = &h.log, &h.log, child.Attr(syscall.SIGKILL)
	begin := time.Now()
	if err := h.cmd.Start(); err != nil {
		return nil, errors.Join(err, h.served.Close())
	}
	go func() { defer close(h.ended); _ = h.cmd.Wait() }() // how it ended is in its log
	select {
	case <-h.asked:
		h.Init = time.Since(begin)
		return h, nil
	case <-h.ended:
		err = fmt.Errorf("%s ended before it asked for an event", binary)
	case <-time.After(hostLimit):
		err = fmt.Errorf("%s asks for no event", binary)
	}
	return nil, errors.Join(err, h.Close())
}

func (h *Host) next(w http.ResponseWriter, r *http.Request) {
	select {
	case h.asked <- struct{}{}:
	default:
	}
	select {
	case e := <-h.events:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", "00000000-0000-0000-0000-000000000001")
		w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(hostLimit).UnixMilli(), 10))
		_, _ = w.Write(e)
	case <-r.Context().Done():
	}
}

func (h *Host) take(w http.ResponseWriter, r *http.Request, failed bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	h.answer <- answered{failed || err != nil, b}
	w.WriteHeader(http.StatusAccepted)
}

// event is a function URL's, as far as it matters here.
type event struct {
	Version         string            `json:"version"`
	RawPath         string            `json:"rawPath"`
	Headers         map[string]string `json:"headers"`
	Body            string            `json:"body"`
	IsBase64Encoded bool              `json:"isBase64Encoded"`
	RequestContext  struct {
		DomainName string `json:"domainName"`
		HTTP       struct {
			Method   string `json:"method"`
			SourceIP string `json:"sourceIp"`
		} `json:"http"`
	} `json:"requestContext"`
}

// Event is a request as a function URL hands it on.
func Event(r *http.Request, body []byte) ([]byte, error) {
	e := event{Version: "2.0", RawPath: r.URL.Path, Headers: map[string]string{}, Body: string(body)}
	for k, v := range r.Header {
		e.Headers[strings.ToLower(k)] = strings.Join(v, ",")
	}
	e.RequestContext.DomainName, e.RequestContext.HTTP.Method, e.RequestContext.HTTP.SourceIP = r.URL.Host, r.Method, "192.0.2.1"
	return json.Marshal(e)
}

// Response is what a function URL would answer.
func Response(b []byte) (status int, body []byte, err error) {
	var out struct {
		StatusCode      int    `json:"statusCode"`
		Body            string `json:"body"`
		IsBase64Encoded bool   `json:"isBase64Encoded"`
		ErrorMessage    string `json:"errorMessage"`
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return 0, nil, fmt.Errorf("answer: %w", err)
	}
	if out.StatusCode == 0 {
		return 0, nil, fmt.Errorf("the function failed: %s", out.ErrorMessage)
	}
	if out.IsBase64Encoded {
		body, err = base64.StdEncoding.DecodeString(out.Body)
		return out.StatusCode, body, err
	}
	return out.StatusCode, []byte(out.Body), nil
}

// Invoke is one event. took is from handing the event over to having the answer, both over loopback, as Lambda measures a duration.
func (h *Host) Invoke(ctx context.Context, event []byte) (out []byte, took time.Duration, err error) {
	limit, cancel := context.WithTimeout(ctx, hostLimit)
	defer cancel()
	begin := time.Now()
	select {
	case h.events <- event:
	case <-h.ended:
		return nil, 0, errors.New("the function ended")
	case <-limit.Done():
		return nil, 0, errors.New("the function asks for no event")
	}
	select {
	case a := <-h.answer:
		if a.failed {
			return nil, 0, fmt.Errorf("the function failed: %s", a.body)
		}
		return a.body, time.Since(begin), nil
	case <-h.ended:
		return nil, 0, errors.New("the function ended")
	case <-limit.Done():
		return nil, 0, errors.New("the function does not answer")
	}
}

// Memory is the process's resident memory, in bytes, now and at most. It reads /proc.
func (h *Host) Memory() (now, most int64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = f.Close() }() // read only
	for lines := bufio.NewScanner(f); lines.Scan(); {
		for name, to := range map[string]*int64{"VmRSS:": &now, "VmHWM:": &most} {
			if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
				kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
				if err != nil {
					return 0, 0, err
				}
				*to = kb << 10
			}
		}
	}
	if now == 0 || most == 0 {
		return 0, 0, errors.New("the kernel does not say what memory the function takes")
	}
	return now, most, nil
}

// Close ends the function. Its log is in the error where it had failed.
func (h *Host) Close() error {
	_ = h.cmd.Process.Kill() // it holds nothing
	<-h.ended
	err := h.served.Close()
	if h.Init == 0 {
		err = errors.Join(err, fmt.Errorf("its log: %s", bytes.TrimSpace(h.log.Bytes())))
	}
	return err
}
