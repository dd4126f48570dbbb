package story

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// browser is a person's browser without scripting: cookies, redirects and forms.
type browser struct{ client *http.Client }

// browser is a new one, which trusts what a person's would, and reaches what theirs would.
func (w *world) browser() (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	file := w.roots
	if file == "" {
		file = w.file.CA
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DisableKeepAlives: true}
	for _, v := range w.reach {
		if proxy, ok := strings.CutPrefix(v, "HTTPS_PROXY="); ok {
			u, err := url.Parse(proxy)
			if err != nil {
				return nil, err
			}
			t.Proxy = func(r *http.Request) (*url.URL, error) {
				if r.URL.Scheme == "https" {
					return u, nil
				}
				return nil, nil
			}
		}
	}
	return &browser{&http.Client{Jar: jar, Transport: t, Timeout: 20 * time.Second}}, nil
}

// page is what came back, after redirects.
type page struct {
	url    *url.URL
	status int
	body   string
}

// text is the page's text with markup removed.
func (p page) text() string {
	return html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(p.body, ""))
}

func (b *browser) do(ctx context.Context, method, target string, form url.Values) (page, error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return page{}, err
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin") // what a browser says of a form on its own page
	}
	res, err := b.client.Do(r)
	if err != nil {
		return page{}, err
	}
	defer func() { _ = res.Body.Close() }() // read to its end below
	raw, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	return page{url: res.Request.URL, status: res.StatusCode, body: string(raw)}, err
}

func (b *browser) get(ctx context.Context, target string) (page, error) {
	return b.do(ctx, http.MethodGet, target, nil)
}

var (
	formShape  = regexp.MustCompile(`(?s)<form[^>]*method="?post"?[^>]*>.*?</form>`)
	inputShape = regexp.MustCompile(`<(?:input|button|textarea)[^>]*>`)
	attrShape  = regexp.MustCompile(`([a-z-]+)="([^"]*)"`)
)

// submit fills the page's form that has all of the named fields and sends it.
func (b *browser) submit(ctx context.Context, p page, fields map[string]string) (page, error) {
	for _, f := range formShape.FindAllString(p.body, -1) {
		values, action := url.Values{}, ""
		have := map[string]bool{}
		for _, a := range attrShape.FindAllStringSubmatch(f[:strings.Index(f, ">")], -1) {
			if a[1] == "action" {
				action = html.UnescapeString(a[2])
			}
		}
		for _, in := range inputShape.FindAllString(f, -1) {
			attrs := map[string]string{}
			for _, a := range attrShape.FindAllStringSubmatch(in, -1) {
				attrs[a[1]] = html.UnescapeString(a[2])
			}
			have[attrs["name"]] = true
			if attrs["type"] == "hidden" {
				values.Set(attrs["name"], attrs["value"])
			}
		}
		all := true
		for k, v := range fields {
			all = all && have[k]
			values.Set(k, v)
		}
		if !all {
			continue
		}
		to, err := p.url.Parse(action)
		if err != nil {
			return page{}, err
		}
		return b.do(ctx, http.MethodPost, to.String(), values)
	}
	return page{}, fmt.Errorf("%s (status %d) has no form with %v: %s", p.url, p.status, fields, strings.Join(strings.Fields(p.text()), " "))
}

// signIn goes to a page that leads to the identity provider, and logs in there.
func (b *browser) signIn(ctx context.Context, target, user, password string) (page, error) {
	p, err := b.get(ctx, target)
	if err != nil {
		return page{}, err
	}
	if !strings.Contains(p.body, `name="password"`) {
		return page{}, errors.New(p.url.String() + " does not ask for a login: " + p.text())
	}
	return b.submit(ctx, p, map[string]string{"username": user, "password": password})
}
