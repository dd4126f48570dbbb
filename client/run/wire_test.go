package run

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
)

func TestRequestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		json string
		ok   bool
	}{
		"hello":                    {`{"v":1,"op":"hello"}`, true},
		"endpoint":                 {`{"v":1,"op":"endpoint","target":"app"}`, true},
		"whoami":                   {`{"v":1,"op":"call","call":{"method":"GET","path":"/whoami"}}`, true},
		"can":                      {`{"v":1,"op":"call","call":{"method":"POST","path":"/can","body":{}}}`, true},
		"sessions":                 {`{"v":1,"op":"call","call":{"method":"GET","path":"/api/sessions?limit=3"}}`, true},
		"one session":              {`{"v":1,"op":"call","call":{"method":"GET","path":"/api/sessions/01JD-x_Z"}}`, true},
		"delegate":                 {`{"v":1,"op":"delegate","delegate":{"name":"x","purpose":"","capability":[],"life":0,"key_proof":"p"}}`, true},
		"no version":               {`{"op":"hello"}`, false},
		"another version":          {`{"v":2,"op":"hello"}`, false},
		"no operation":             {`{"v":1}`, false},
		"unknown operation":        {`{"v":1,"op":"token"}`, false},
		"fields of another":        {`{"v":1,"op":"hello","target":"app"}`, false},
		"delegate without its own": {`{"v":1,"op":"delegate"}`, false},
		"call without its own":     {`{"v":1,"op":"call","target":"app"}`, false},
		"target that is no name":   {`{"v":1,"op":"endpoint","target":"../app"}`, false},
		"no target":                {`{"v":1,"op":"endpoint"}`, false},
		"renew":                    {`{"v":1,"op":"call","call":{"method":"POST","path":"/renew"}}`, false},
		"token":                    {`{"v":1,"op":"call","call":{"method":"POST","path":"/token"}}`, false},
		"ticket":                   {`{"v":1,"op":"call","call":{"method":"POST","path":"/ticket"}}`, false},
		"join":                     {`{"v":1,"op":"call","call":{"method":"POST","path":"/join"}}`, false},
		"below can":                {`{"v":1,"op":"call","call":{"method":"POST","path":"/can/x"}}`, false},
		"walks up":                 {`{"v":1,"op":"call","call":{"method":"GET","path":"/api/sessions/../../join"}}`, false},
		"walks up in one segment":  {`{"v":1,"op":"call","call":{"method":"GET","path":"/whoami/.."}}`, false},
		"escapes":                  {`{"v":1,"op":"call","call":{"method":"GET","path":"/whoami/%2e%2e"}}`, false},
		"another host":             {`{"v":1,"op":"call","call":{"method":"GET","path":"/whoami@evil.example"}}`, false},
		"a recording":              {`{"v":1,"op":"call","call":{"method":"GET","path":"/api/sessions/S1/recordings/C1?from=3"}}`, true},
		"the end of a session":     {`{"v":1,"op":"call","call":{"method":"POST","path":"/api/sessions/S1/end","body":{"reason":"x"}}}`, true},
		"the end of all sessions":  {`{"v":1,"op":"call","call":{"method":"POST","path":"/api/sessions/end"}}`, false},
		"below an end":             {`{"v":1,"op":"call","call":{"method":"POST","path":"/api/sessions/S1/end/x"}}`, false},
		"a recording that walks":   {`{"v":1,"op":"call","call":{"method":"GET","path":"/api/sessions/S1/recordings/.."}}`, false},
		"a session that walks":     {`{"v":1,"op":"call","call":{"method":"GET","path":"/api/sessions/../recordings/C1"}}`, false},
		"another method":           {`{"v":1,"op":"call","call":{"method":"POST","path":"/api/approvals"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var r request
			if err := readMessage(framed(tc.json), &r, maxRequest); err != nil {
				t.Fatal(err)
			}
			if err := r.check(); (err == nil) != tc.ok {
				t.Errorf("check: %v, want ok %v", err, tc.ok)
			}
		})
	}
}

func framed(s string) io.Reader {
	return strings.NewReader(string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s)
}

func TestReadMessageRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		in   io.Reader
		want error
	}{
		"end":              {strings.NewReader(""), io.EOF},
		"cut length":       {strings.NewReader("\x00\x00"), io.ErrUnexpectedEOF},
		"cut body":         {strings.NewReader("\x00\x00\x00\x05{}"), io.ErrUnexpectedEOF},
		"empty":            {strings.NewReader("\x00\x00\x00\x00"), api.ErrTooLarge},
		"too large":        {strings.NewReader("\xff\xff\xff\xff"), api.ErrTooLarge},
		"unknown field":    {framed(`{"v":1,"op":"hello","extra":1}`), api.ErrBadRequest},
		"something behind": {framed(`{"v":1,"op":"hello"}{}`), api.ErrBadRequest},
		"not JSON":         {framed(`hello`), api.ErrBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			if err := readMessage(tc.in, new(request), maxRequest); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if err := writeMessage(io.Discard, strings.Repeat("x", 100), 50); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("write over the limit: %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x14{\"v\":1,\"op\":\"hello\"}"))
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		in := bytes.NewReader(b)
		if readMessage(in, &r, maxRequest) != nil {
			return
		}
		if n := int(binary.BigEndian.Uint32(b)); len(b)-in.Len() != 4+n {
			t.Errorf("read %d bytes of a message of %d", len(b)-in.Len(), n)
		}
		if r.check() == nil && !slices.Contains([]string{opHello, opDelegate, opCall, opEndpoint}, r.Op) {
			t.Errorf("operation %q passes", r.Op)
		}
		var a answer
		_ = readMessage(bytes.NewReader(b), &a, maxAnswer) // never panics
		if _, err := json.Marshal(r); err != nil && r.check() == nil {
			t.Error(err)
		}
	})
}

func TestClientEnv(t *testing.T) {
	got := environment([]string{"PATH=/bin", "HOME=/root", "SALLYPORT_HOME=/s", "TESTHOST=x", "LC_ALL=C", "junk", "AWS_SECRET=1"},
		&User{Name: "nobody", Home: "/nonexistent"}, func(name string) bool { return name == "TESTHOST" }, []string{"A=1"})
	want := []string{"PATH=/bin", "LC_ALL=C", "HOME=/nonexistent", "USER=nobody", "LOGNAME=nobody", "A=1"}
	if !slices.Equal(got, want) {
		t.Errorf("another user's: %q, want %q", got, want)
	}
	if got := dsnVariable("my-app-2"); got != "SALLYPORT_MY_APP_2_DSN" {
		t.Error(got)
	}
}
