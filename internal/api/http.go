package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// MaxBody is the largest request body in bytes. It is also Lambda's limit of an event, in which a body becomes longer: what does not fit goes by
// presigned PUT.
const MaxBody = 6 << 20

// Read decodes a request's JSON body into v: at most MaxBody, no unknown field, nothing after it.
func Read(r *http.Request, v any) error {
	return decode(http.MaxBytesReader(nil, r.Body, MaxBody), v)
}

// decode reads one JSON value and nothing after it.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return Because(ErrTooLarge, "", "body is over %d bytes", tooLarge.Limit)
		}
		return Because(ErrBadRequest, "", "body: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Because(ErrBadRequest, "", "body: something follows the JSON value")
	}
	return nil
}

// Write answers 200 with v as JSON.
func Write(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		Fail(w, nil, fmt.Errorf("encode answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // the client went away: there is nobody to tell
}

// Fail answers with err's status and body. An error that is not an *Error is logged and reaches the client as "internal".
func Fail(w http.ResponseWriter, log *slog.Logger, err error) {
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		if log != nil {
			log.Error("internal error", "error", err)
		}
		e = Because(ErrInternal, "the broker's log has the reason", "internal error")
	} else if log != nil && err != error(e) { //nolint:errorlint // is it wrapped, that is the question
		log.Warn("refused", "error", err) // it says more than the caller is told
	}
	if e.Rule == "" { // made without Because: every refusal names a rule
		e = e.By(e.kind())
	}
	b, merr := json.Marshal(e)
	if merr != nil {
		b = []byte(`{"code":"internal","message":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(e.Status())
	_, _ = w.Write(b)
}
