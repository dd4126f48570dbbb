package broker

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
)

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
