package api

import (
	"fmt"
	"net/http"
	"strings"
)

// Error is the body of every HTTP answer that is not 2xx.
type Error struct {
	Code    string `json:"code"`    // one of the codes below
	Message string `json:"message"` // for people: what was refused, by which rule
	Hint    string `json:"hint,omitempty"`
	Rule    string `json:"rule,omitempty"` // what refused: a constant of rules.go, a policy's id, or the kind's own name
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// Is makes errors.Is match by code, so that the sentinels below serve as kinds.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// The kinds of error that cross a process boundary.
var (
	ErrBadRequest  = &Error{Code: "bad_request"}
	ErrLogin       = &Error{Code: "login_needed"} // no token, or one that is not good any more
	ErrDenied      = &Error{Code: "denied"}       // authenticated, not permitted
	ErrRevoked     = &Error{Code: "revoked"}
	ErrNotFound    = &Error{Code: "not_found"}
	ErrConflict    = &Error{Code: "conflict"} // used already, or somebody was faster
	ErrTooLarge    = &Error{Code: "too_large"}
	ErrBusy        = &Error{Code: "busy"}
	ErrUnavailable = &Error{Code: "unavailable"} // a store did not answer: the gate is closed
	ErrInternal    = &Error{Code: "internal"}
)

// Because is the kind k with a message and a hint of its own. Its rule is the kind's until By names a narrower one.
func Because(k *Error, hint, format string, args ...any) *Error {
	return &Error{Code: k.Code, Message: fmt.Sprintf(format, args...), Hint: hint, Rule: k.kind()}
}

// By is the error as a refusal by a rule; "" leaves the rule as it is.
func (e *Error) By(rule string) *Error {
	own := *e
	if rule != "" {
		own.Rule = rule
	}
	return &own
}

// Narrow is the rule where it says more than the error's kind does, else "".
func (e *Error) Narrow() string {
	if e.Rule == e.kind() {
		return ""
	}
	return e.Rule
}

// kind is the rule that a refusal names which names no other: its code, as rules are spelt.
func (e *Error) kind() string { return strings.ReplaceAll(e.Code, "_", "-") }

// The one table from errors to what callers see: HTTP status, exit code of the CLI.
var table = map[string]struct{ status, exit int }{
	"bad_request":  {http.StatusBadRequest, 2},
	"login_needed": {http.StatusUnauthorized, 3},
	"denied":       {http.StatusForbidden, 4},
	"revoked":      {http.StatusForbidden, 4},
	"not_found":    {http.StatusNotFound, 2},
	"conflict":     {http.StatusConflict, 4},
	"too_large":    {http.StatusRequestEntityTooLarge, 2},
	"busy":         {http.StatusTooManyRequests, 6},
	"unavailable":  {http.StatusServiceUnavailable, 6},
	"internal":     {http.StatusInternalServerError, 6},
}

// Exit codes of the CLI that no api.Error stands for.
const (
	ExitOK          = 0
	ExitUsage       = 2
	ExitLogin       = 3
	ExitDenied      = 4
	ExitHeld        = 5 // held, or timed out while held
	ExitUnreachable = 6
	ExitVerify      = 10 // and above: see audit
)

// Status is the HTTP status of a code; 500 for one that is not in the table.
func (e *Error) Status() int {
	if t, ok := table[e.Code]; ok {
		return t.status
	}
	return http.StatusInternalServerError
}

// Exit is the CLI's exit code for a code.
func (e *Error) Exit() int {
	if t, ok := table[e.Code]; ok {
		return t.exit
	}
	return ExitUnreachable
}
