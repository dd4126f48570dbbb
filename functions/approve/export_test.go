package approve

import (
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sallyport/sallyport/internal/approval"
)

// FormToken is the form token for a verdict on rec that the browser with these cookies would be given.
func FormToken(stateKey []byte, now time.Time, given []*http.Cookie, rec approval.Record) (string, bool) {
	c, err := newCookies(stateKey, false, func() time.Time { return now })
	if err != nil {
		return "", false
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, k := range given {
		r.AddCookie(k)
	}
	var b browser
	ok := c.get(r, sessionCookie, &b)
	return c.formToken(b, verdictForm(rec)), ok
}

// For the tests of text.
var (
	Visible = visible
	Glance  = glance
	Exact   = exact
)
