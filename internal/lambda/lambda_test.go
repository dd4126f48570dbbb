package lambda_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"github.com/sallyport/sallyport/internal/lambda"
)

// event is as Lambda sends it.
const event = `{"version":"2.0","rawPath":"/v1/a%2Fb","rawQueryString":"x=1&x=2","cookies":["a=1","b=2"],
"headers":{"content-type":"application/json","host":"evil.test","dpop":"proof","x-twice":"1,2"},
"requestContext":{"domainName":"abc.lambda-url.eu-west-1.on.aws","http":{"method":"POST","path":"/v1/a/b","sourceIp":"192.0.2.7"}},
"body":"e30=","isBase64Encoded":true}`

func parse(t *testing.T, s string) (e events.LambdaFunctionURLRequest) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRequest(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		a, _ := r.Cookie("a")
		c, _ := r.Cookie("b")
		_, _ = fmt.Fprint(w, r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery, string(b), err, r.ContentLength, r.Header.Get("DPoP"), a, c, r.RemoteAddr, r.Header.Get("Host"))
	})
	got, err := lambda.Answer(t.Context(), h, parse(t, event))
	want := "POSTabc.lambda-url.eu-west-1.on.aws/v1/a%2Fbx=1&x=2{}<nil>2proofa=1 b=2192.0.2.7:0"
	if err != nil || strings.ReplaceAll(got.Body, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Fatalf("%s %v", got.Body, err)
	}
}

// One address has one spelling: what hangs on it (handlers, proofs of possession) must not come in many.
func TestOneAddressHasOneSpelling(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host+" "+r.URL.Host) })
	for _, host := range []string{"ABC.lambda-url.eu-west-1.on.aws", "abc.lambda-url.eu-west-1.on.aws:443", "abc.lambda-url.eu-west-1.on.aws."} {
		got, err := lambda.Answer(t.Context(), h, parse(t, strings.Replace(event, "abc.lambda-url.eu-west-1.on.aws", host, 1)))
		if want := "abc.lambda-url.eu-west-1.on.aws"; err != nil || got.Body != want+" "+want {
			t.Errorf("%s: %q %v", host, got.Body, err)
		}
	}
}

func TestBadRequestsReachNobody(t *testing.T) {
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("called") })
	for _, change := range [][2]string{{`"e30="`, `"*"`}, {`"abc.lambda-url.eu-west-1.on.aws"`, `""`}, {`"abc.lambda-url.eu-west-1.on.aws"`, `"a/b"`},
		{`"/v1/a%2Fb"`, `"v1"`}, {`"/v1/a%2Fb"`, `"/%zz"`}, {`"POST"`, `"P OST"`}} {
		got, err := lambda.Answer(t.Context(), h, parse(t, strings.Replace(event, change[0], change[1], 1)))
		if err != nil || got.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %v", change[1], got.StatusCode, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	binary := []byte{0xff, 0xfe, 0}
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want events.LambdaFunctionURLResponse
	}{
		"nothing": {func(http.ResponseWriter, *http.Request) {}, events.LambdaFunctionURLResponse{StatusCode: 200}},
		"json": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusTeapot)
			w.Header().Set("Content-Type", "text/late")
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write([]byte(`{"a":`))
			_, _ = w.Write([]byte(`"ä"}`))
		}, events.LambdaFunctionURLResponse{StatusCode: 418, Headers: map[string]string{"Content-Type": "application/json"}, Body: `{"a":"ä"}`}},
		"binary": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "image/x")
			_, _ = w.Write(binary)
		}, events.LambdaFunctionURLResponse{StatusCode: 200, Headers: map[string]string{"Content-Type": "image/x"},
			Body: base64.StdEncoding.EncodeToString(binary), IsBase64Encoded: true}},
		"cookies": {func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
			http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
			http.Redirect(w, r, "/x", http.StatusSeeOther)
		}, events.LambdaFunctionURLResponse{StatusCode: 303, Headers: map[string]string{"Location": "/x"}, Cookies: []string{"a=1", "b=2"}}},
	} {
		got, err := lambda.Answer(t.Context(), tt.h, parse(t, event))
		if len(got.Headers) == 0 {
			got.Headers = nil
		}
		if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", tt.want); err != nil || a != b {
			t.Errorf("%s: got %s, want %s (%v)", name, a, b, err)
		}
	}
}

func TestTooLargeAnAnswerIsNoAnswer(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 5 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		}
	})
	if got, err := lambda.Answer(t.Context(), h, parse(t, event)); err == nil {
		t.Fatalf("%d bytes", len(got.Body))
	}
}

// Lambda carries 6 MB of what the runtime sends, in which quotes and controls are escaped.
func TestALongAnswerIsCarried(t *testing.T) {
	for _, one := range []string{"x", `"`, "\n", "<", "\u2028", "ä", "\xff"} {
		body := strings.Repeat(one, 4<<20/len(one))
		got, err := lambda.Answer(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }), parse(t, event))
		if err != nil {
			t.Fatalf("%q: %v", one, err)
		}
		sent, err := json.Marshal(got)
		if err != nil || len(sent) > 6<<20 {
			t.Errorf("%q: %d bytes, %v", one, len(sent), err)
		}
		back := []byte(got.Body)
		if got.IsBase64Encoded {
			if back, err = base64.StdEncoding.DecodeString(got.Body); err != nil {
				t.Fatal(err)
			}
		}
		if string(back) != body {
			t.Errorf("%q: another answer arrives", one)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(event))
	f.Add([]byte(`{}`))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "" || !strings.HasPrefix(r.URL.Path, "/") || r.Host != r.URL.Host {
			panic(fmt.Sprintf("host %q, path %q", r.Host, r.URL.Path))
		}
		_, _ = io.Copy(w, r.Body)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e events.LambdaFunctionURLRequest
		if json.Unmarshal(b, &e) != nil {
			return
		}
		if got, err := lambda.Answer(t.Context(), h, e); err == nil && got.StatusCode == 0 {
			t.Fatal("no status")
		}
	})
}
