package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// Headers of a webhook. HeaderSignature is "t=SECONDS,v1=HEX": HEX is HMAC-SHA256, by the webhook's key, over SECONDS, a full stop and the body.
const (
	HeaderSignature = "Sallyport-Signature"
	HeaderDelivery  = "Sallyport-Delivery" // the same at every attempt of one delivery
)

// WebhookConfig names who is told. URL and Key are required.
type WebhookConfig struct {
	URL string // https
	Key []byte // at least minKey bytes, shared with whoever verifies
	// Private permits addresses of private networks and this machine, and plain HTTP to the latter: for a system on one machine.
	Private bool
	TLS     *tls.Config      // nil: the system's roots
	Now     func() time.Time // nil: time.Now
}

const (
	minKey    = 32
	maxAnswer = 4 << 10 // read of an answer, so that the connection can be used again
)

// Webhook posts to one URL.
type Webhook struct {
	url  string
	key  []byte
	http *http.Client
	now  func() time.Time
}

// NewWebhook checks the configuration.
func NewWebhook(c WebhookConfig) (*Webhook, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("webhook: want https://HOST[:PORT]/PATH, without a user") // the URL may be a secret by itself
	}
	ip, _ := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !c.Private || !loopback) {
		return nil, errors.New("webhook: only https is spoken")
	}
	if len(c.Key) < minKey {
		return nil, fmt.Errorf("webhook: the key has %d bytes, want %d or more", len(c.Key), minKey)
	}
	d := &net.Dialer{Timeout: 5 * time.Second}
	if !c.Private {
		d.Control = publicOnly
	}
	t := &http.Transport{
		Proxy: nil, DialContext: d.DialContext, TLSClientConfig: c.TLS, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
		MaxResponseHeaderBytes: 16 << 10, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	w := &Webhook{url: c.URL, key: c.Key, now: c.Now, http: &http.Client{Transport: t, Timeout: sendLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}} // and a 3xx is no success
	if w.now == nil {
		w.now = time.Now
	}
	return w, nil
}

// CloseIdle closes the connection that waits for a next call.
func (w *Webhook) CloseIdle() { w.http.CloseIdleConnections() }

// Sign is the value of HeaderSignature.
func Sign(key []byte, at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(seconds + "."))
	h.Write(body)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(h.Sum(nil))
}

// Post delivers a body. Anything but a 2xx is a failure.
func (w *Webhook) Post(ctx context.Context, id string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("webhook: the request cannot be made")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sallyport")
	req.Header.Set(HeaderDelivery, id)
	req.Header.Set(HeaderSignature, Sign(w.key, w.now(), body))
	resp, err := w.http.Do(req)
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err // without the URL
	}
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()                         // read far enough, or abandoned
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // what it says beside its status is its own
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("webhook: answered with status %d", resp.StatusCode)
	}
	return nil
}

// errPrivate: a name that resolves into the function's own surroundings is somebody's attempt, or a mistake.
var errPrivate = errors.New("the address is not a public one")

// special are networks that net/netip does not tell by itself (IANA's special-purpose registries): shared address space, protocol assignments,
// documentation, benchmarking, reserved, and the ways to spell an IPv4 address in IPv6.
var special = func() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10"} {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}()

// public says whether an address is one of the Internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// publicOnly looks at the address that is really dialled, after the name was resolved.
func publicOnly(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !public(to.Addr()) {
		return errPrivate
	}
	return nil
}
