//go:build aws

package stack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/sallyport/sallyport/internal/api"
)

// host is Lambda's runtime API for one process of one function.
type host struct {
	*httptest.Server
	events  chan []byte
	answers chan answer
}

type answer struct {
	failed bool
	body   []byte
}

// runFunction starts a function's binary as Lambda does. It ends with the test.
func runFunction(t *testing.T, name string, vars map[string]string) *host {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binary, "../../functions/"+name+"/lambda")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := &host{events: make(chan []byte), answers: make(chan answer, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case e := <-h.events:
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", "r1")
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(15*time.Second).UnixMilli()))
			_, _ = w.Write(e)
		case <-r.Context().Done():
		}
	})
	reply := func(failed bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			h.answers <- answer{failed, b}
			w.WriteHeader(http.StatusAccepted)
		}
	}
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/r1/response", reply(false))
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/r1/error", reply(true))
	h.Server = httptest.NewServer(mux)
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = []string{"AWS_LAMBDA_RUNTIME_API=" + strings.TrimPrefix(h.URL, "http://")}
	for k, v := range vars {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait(); close(h.events) }()
	t.Cleanup(func() {
		stop()
		<-ended
		h.CloseClientConnections()
		h.Close()
		if t.Failed() {
			t.Logf("%s: %s", name, log.String())
		}
	})
	return h
}

func (h *host) invoke(t *testing.T, event any) answer {
	t.Helper()
	b, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	limit := time.After(20 * time.Second)
	defer func() {
		if recover() != nil {
			t.Fatal("the function ended")
		}
	}()
	select {
	case h.events <- b: // panics when the function has ended
	case <-limit:
		t.Fatal("the function does not ask for events")
	}
	select {
	case a := <-h.answers:
		return a
	case <-limit:
		t.Fatal("the function does not answer")
	}
	return answer{}
}

func call(t *testing.T, h *host, method, path, body string) events.LambdaFunctionURLResponse {
	t.Helper()
	e := events.LambdaFunctionURLRequest{Version: "2.0", RawPath: path, Body: body, Headers: map[string]string{"content-type": "application/json"}}
	e.RequestContext.DomainName, e.RequestContext.HTTP.Method, e.RequestContext.HTTP.SourceIP = "f.lambda-url.test", method, "192.0.2.1"
	a := h.invoke(t, e)
	var out events.LambdaFunctionURLResponse
	if err := json.Unmarshal(a.body, &out); a.failed || err != nil {
		t.Fatalf("%s %s: %s (%v)", method, path, a.body, err)
	}
	return out
}

// Every function starts from its environment alone, answers, and answers no to who does not sign.
func TestFunctionsRun(t *testing.T) {
	vars := deployment(t)
	if s := opened(t, vars); s.Init(t.Context()) != nil {
		t.Fatal(s.Err())
	}
	for _, tt := range []struct {
		function, method, path, body string
		status                       int
		has                          string
	}{
		{"token", http.MethodGet, api.PathDiscovery, "", http.StatusOK, "BEGIN CERTIFICATE"},
		{"token", http.MethodGet, api.PathWhoami, "", http.StatusUnauthorized, `"code"`},
		{"decide", http.MethodPost, api.PathCheck, "{}", http.StatusUnauthorized, `"code"`},
		{"changes", http.MethodPost, api.PathChanges, "{}", http.StatusUnauthorized, `"code"`},
		{"record", http.MethodPost, api.PathRecord, "{}", http.StatusUnauthorized, `"code"`},
		{"enroll", http.MethodPost, api.PathJoin, "{}", http.StatusUnauthorized, `"code"`},
		{"approve", http.MethodGet, "/assets/style.css", "", http.StatusOK, "{"},
		{"approve", http.MethodGet, api.PathSessions, "", http.StatusUnauthorized, `"code"`},
	} {
		t.Run(tt.function+tt.path, func(t *testing.T) {
			h := runFunction(t, tt.function, vars)
			got := call(t, h, tt.method, tt.path, tt.body)
			if got.StatusCode != tt.status || !strings.Contains(got.Body, tt.has) {
				t.Fatalf("%d %s", got.StatusCode, got.Body)
			}
		})
	}
	t.Run("seal", func(t *testing.T) {
		h := runFunction(t, "seal", vars)
		for range 2 {
			if a := h.invoke(t, map[string]string{"source": "aws.events"}); a.failed {
				t.Fatalf("%s", a.body)
			}
		}
		if b, err := opened(t, vars).Evidence().Load(t.Context(), "checkpoint"); err != nil || !bytes.Contains(b, []byte("sallyport.test/audit")) {
			t.Fatalf("%s %v", b, err)
		}
	})
}
