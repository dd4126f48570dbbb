package measure_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/measure"
)

// The binary that is deployed decides under a host on loopback, from its environment alone, and once warm asks neither S3 nor KMS.
func TestTheBinaryDecides(t *testing.T) {
	w, meter := twin(t)
	binary := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binary, "../../functions/decide/lambda")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vars := w.Vars()
	h, err := measure.StartHost(binary, vars)
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	a, err := w.Agent(t.Context(), "edge")
	must(t, err)
	l, err := w.Login(t.Context(), "maria@example.com")
	must(t, err)
	s, err := w.Session(t.Context(), a, l)
	must(t, err)
	for n := range 3 {
		q, err := s.Ask(1, false)
		must(t, err)
		r, body, err := a.Request(t.Context(), api.PathCheck, api.CheckRequest{Agent: a.Name, Asks: []api.Ask{q}})
		must(t, err)
		e, err := measure.Event(r, body)
		must(t, err)
		raw, _, err := h.Invoke(t.Context(), e)
		must(t, err)
		status, answer, err := measure.Response(raw)
		must(t, err)
		resp, err := measure.ReadAnswer(status, answer)
		must(t, err)
		must(t, s.Answered(q, resp.Answers[0], access.Allow))
		if u, err := meter.Take(); err != nil || n > 0 && (u.S3 != 0 || u.KMS != 0 || u.DynamoDB("PutItem") == 0) {
			t.Errorf("%+v %v", u, err)
		}
	}
	if now, most, err := h.Memory(); err != nil || most < now {
		t.Error(now, most, err)
	}
	broken := maps.Clone(vars)
	delete(broken, "SALLYPORT_KEY_STATE")
	if h, err := measure.StartHost(binary, broken); err == nil || !strings.Contains(err.Error(), "SALLYPORT_KEY_STATE") {
		t.Errorf("%v %v", h, err)
	}
}
