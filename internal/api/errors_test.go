package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestEveryRefusalNamesARule(t *testing.T) {
	for code := range table {
		kind := &Error{Code: code}
		for name, c := range map[string]struct {
			err    error
			rule   string
			narrow string
		}{
			"because":      {Because(kind, "", "no"), kind.kind(), ""},
			"by a rule":    {Because(kind, "", "no").By("no-ddl"), "no-ddl", "no-ddl"},
			"by nothing":   {Because(kind, "", "no").By(""), kind.kind(), ""},
			"by hand":      {&Error{Code: code, Message: "no"}, kind.kind(), ""},
			"not our kind": {errors.New("disk"), "internal", ""},
		} {
			w := httptest.NewRecorder()
			Fail(w, nil, c.err)
			var got Error
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Rule != c.rule || got.Narrow() != c.narrow {
				t.Errorf("%s, %s: %s (%v)", code, name, w.Body, err)
			}
		}
	}
	kind := Because(ErrDenied, "", "no")
	if kind.By("x"); kind.Rule != "denied" || !errors.Is(kind.By("x"), ErrDenied) || kind.By("x").Status() != http.StatusForbidden {
		t.Errorf("By changed %+v", kind)
	}
}
