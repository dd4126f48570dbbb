package broker

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// event is the length of what Lambda makes of a call to a function URL, and holds to its limit.
func event(t *testing.T, r *http.Request, body []byte, base64ed bool) int {
	t.Helper()
	text := string(body)
	if base64ed {
		text = base64.StdEncoding.EncodeToString(body)
	}
	headers := map[string]string{}
	for k, v := range r.Header {
		headers[strings.ToLower(k)] = strings.Join(v, ",")
	}
	b, err := json.Marshal(map[string]any{"version": "2.0", "rawPath": r.URL.Path, "headers": headers, "body": text, "isBase64Encoded": base64ed})
	if err != nil {
		t.Error(err)
	}
	return len(b)
}

// A function URL carries less than 6 MB of a body: what would not fit the event goes beside the call, whatever the command is made of.
func TestWhatAFunctionURLCannotCarryIsUploaded(t *testing.T) {
	ca := newCA(t)
	var base string
	var uploads, checks atomic.Int64
	server := serve(t, ca, loopback, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.Method == http.MethodPut {
			uploads.Add(1)
			return
		}
		if most := max(event(t, r, body, false), event(t, r, body, true)); most > 6<<20 {
			t.Errorf("%s: an event of %d bytes", r.URL.Path, most)
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			_, _ = io.WriteString(w, `{"Message":"Request must be smaller than 6291456 bytes for the InvokeFunction operation"}`)
			return
		}
		if r.URL.Path == api.PathUpload {
			_ = json.NewEncoder(w).Encode(api.UploadResponse{URL: base + "/put"})
			return
		}
		checks.Add(1)
		_, _ = io.WriteString(w, "{}")
	}))
	base = server.URL
	defer server.Close()
	cert := agentCert(t, ca)
	a := must(NewAgent(AgentConfig{URL: base + "/#ca=" + ca.Pin(), Certificate: func() (tls.Certificate, error) { return cert, nil }}))
	defer a.CloseIdle()
	for name, tt := range map[string]struct {
		text    string
		uploads int64
	}{
		"one MB":                    {strings.Repeat("x", 1<<20), 0},
		"four MB":                   {strings.Repeat("x", 4<<20), 0},
		"five MB":                   {strings.Repeat("x", 5<<20), 1},
		"all but six MB":            {strings.Repeat("x", 6<<20-4000), 1},
		"one and a half MB, quotes": {strings.Repeat(`"`, 3<<19), 1},
		"quotes that still fit":     {strings.Repeat(`"`, 5<<18), 0},
		"backslashes":               {strings.Repeat(`\`, 5<<19), 1},
		"two MB of umlauts":         {strings.Repeat("ä", 1<<20), 1},
	} {
		uploads.Store(0)
		checks.Store(0)
		_, err := a.Check(t.Context(), api.CheckRequest{Agent: "edge", Asks: []api.Ask{{Commands: []access.Command{{ID: "C", Text: tt.text}}}}})
		if err != nil || checks.Load() != 1 || uploads.Load() != tt.uploads {
			t.Errorf("%s: %v, %d uploads", name, err, uploads.Load())
		}
	}
}

// A granted URL permits what it says: an error that is logged must not repeat it.
func TestAGrantedURLIsNotTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil { // nobody answers there
		t.Fatal(err)
	}
	a := &Agent{outside: &http.Client{}, caller: caller{address: address{base: "https://broker.test"}}}
	err = a.put(t.Context(), api.UploadResponse{URL: "http://" + at + "/uploads/S/C?X-Amz-Security-Token=canary&X-Amz-Signature=canary"}, []byte("x"))
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
}
