package postgres

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// SQLSTATEs that the room itself answers with (PostgreSQL manual, appendix A).
const (
	stateDenied       = "42501" // insufficient_privilege
	stateCancelled    = "57014" // query_canceled
	stateEnded        = "57P01" // admin_shutdown: drivers reconnect, and are then told why
	stateBusy         = "53400" // configuration_limit_exceeded
	stateNoStatement  = "26000" // invalid_sql_statement_name
	stateNoPortal     = "34000" // invalid_cursor_name
	stateProtocol     = "08P01" // protocol_violation
	stateNoAuth       = "28000" // invalid_authorization_specification
	stateBadPassword  = "28P01" // invalid_password
	stateUnreachable  = "08001" // sqlclient_unable_to_establish_sqlconnection
	stateTargetGone   = "08006" // connection_failure
	stateUnsupported  = "0A000" // feature_not_supported
	stateInternal     = "XX000" // internal_error
	severityError     = "ERROR"
	severityFatal     = "FATAL"
	severityNotice    = "NOTICE"
	ruleProtocol      = "postgres.protocol"
	hintProtocol      = "the room refuses what it does not understand; use a driver that speaks protocol 3.0"
	permitLate        = "permit-late"
	messageCancelled  = "canceling statement due to user request" // what PostgreSQL says
	messageTargetGone = "the connection to the target was lost; whether the command ran is unknown"
)

// reply is an ErrorResponse of the room's own.
type reply struct {
	severity, code, message, detail, hint string
}

// append writes the reply as message tag 'E' or 'N'.
func (r *reply) append(dst []byte) []byte {
	tag := byte('E')
	if r.severity == severityNotice {
		tag = 'N'
	}
	dst, at := frame(dst, tag)
	for _, f := range []struct {
		kind  byte
		value string
	}{{'S', r.severity}, {'V', r.severity}, {'C', r.code}, {'M', r.message}, {'D', r.detail}, {'H', r.hint}} {
		if f.value != "" {
			dst = appendText(append(dst, f.kind), printable(f.value))
		}
	}
	return seal(append(dst, 0), at)
}

// printable keeps a text inside its field: no zero byte ends it early.
func printable(s string) string {
	for i := range len(s) {
		if s[i] == 0 {
			return s[:i]
		}
	}
	return s
}

// refusal is a denial in PostgreSQL's words: the message names the rule, the hint says what to do next, and the detail is for programs.
func refusal(d *access.Denied) *reply {
	r := &reply{severity: severityError, code: stateDenied, message: d.Error(), detail: d.Detail(), hint: d.Hint}
	switch d.Code {
	case access.CodeCancelled:
		r.code, r.message = stateCancelled, messageCancelled
	case access.CodeBusy:
		r.code = stateBusy
	case access.CodeHeldDenied:
		r.message = fmt.Sprintf("a reviewer said no, under rule %q", d.Rule)
	case access.CodeHeldExpired:
		r.message = fmt.Sprintf("no reviewer answered in time, under rule %q", d.Rule)
	case access.CodeNotMaskable:
		r.message = fmt.Sprintf("denied by rule %q: a protected value would travel where it cannot be masked", d.Rule)
	}
	return r
}

// ended is the last thing that a client hears: why its session is over.
func ended(d *access.Denied) *reply {
	r := refusal(d)
	r.severity = severityFatal
	switch d.Code {
	case access.CodeRevoked:
		r.code, r.message = stateEnded, "the session was ended: "+d.Error()
	case access.CodeCancelled:
		r.code = stateEnded
	}
	return r
}

// heldNotice tells the client that its command waits, where to have it approved and until when.
func heldNotice(h access.HeldCommand) *reply {
	return &reply{severity: severityNotice, code: "00000",
		message: fmt.Sprintf("held by %q: waiting for a reviewer, until %s", h.Name, h.Expires.UTC().Format(time.RFC3339)),
		detail:  fmt.Sprintf("approval %s", h.Approval),
		hint:    "ask a reviewer to open " + h.Link}
}

// deniedBy is what an error of the gate comes to: one that is no denial closes the gate.
func deniedBy(err error) *access.Denied {
	d := (*access.Denied)(nil)
	if errors.As(err, &d) {
		return d
	}
	return &access.Denied{Code: access.CodeNoDecision, Rule: "gate-error", Retryable: true,
		Hint: "the broker did not decide; try again, and look at the agent's log if it goes on"}
}

// violation is a message that the room does not carry; the session ends with it.
type violation struct {
	rule, what string
}

func (v *violation) Error() string { return "protocol violation: " + v.what }

func violated(format string, args ...any) *violation {
	return &violation{rule: ruleProtocol, what: fmt.Sprintf(format, args...)}
}
