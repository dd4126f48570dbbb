package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/run"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// exitOther is for what no other code stands for: a disk that is full, a bug.
const exitOther = 1

// report says on w why the program ends, and returns its exit code. The code of a program that was run is passed on in silence.
func report(w io.Writer, err error, asJSON bool) int {
	code := exitCode(err)
	if e := (*run.Exit)(nil); errors.As(err, &e) {
		return code
	}
	if e := exitStatus(0); errors.As(err, &e) {
		return code // everything was printed
	}
	told := told(err)
	if asJSON {
		b, merr := json.Marshal(struct {
			*api.Error
			Exit int `json:"exit"`
		}{told, code})
		if merr == nil {
			_, _ = fmt.Fprintln(w, string(b)) // nobody is left to tell
			return code
		}
	}
	_, _ = fmt.Fprintf(w, "sallyport: %s%s\n", told.Message, ruleOf(told))
	if told.Hint != "" {
		_, _ = fmt.Fprintf(w, "next: %s\n", told.Hint)
	}
	return code
}

// ruleOf names the rule of a refusal, where it says more than the exit status does and the message has not said it already.
func ruleOf(e *api.Error) string {
	if rule := e.Narrow(); rule != "" && !strings.Contains(e.Message, rule) {
		return " (rule " + shown(rule) + ")"
	}
	return ""
}

// told is what people and programs hear of an error: a refusal in its own words, anything else with what was being done.
func told(err error) *api.Error {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		// With what was being done, and without the code: programs read that from the JSON and the exit status.
		return &api.Error{Code: e.Code, Message: strings.ReplaceAll(err.Error(), e.Error(), e.Message), Hint: e.Hint, Rule: e.Rule}
	}
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return &api.Error{Code: d.Code, Message: d.Error(), Hint: d.Hint, Rule: d.Rule}
	}
	if s := (broker.Stranger{}); errors.As(err, &s) {
		return api.Because(api.ErrUnavailable, "see whether SALLYPORT_URL is right, and the stack there and well: its operator runs `sallyport doctor --stack NAME`; nothing was permitted", "%v", err)
	}
	if unreachable(err) {
		return api.Because(api.ErrUnavailable, "see whether the broker runs and SALLYPORT_URL is right; nothing was permitted", "%v", err)
	}
	return &api.Error{Code: api.ErrInternal.Code, Message: err.Error()}
}

func exitCode(err error) int {
	if e := (*run.Exit)(nil); errors.As(err, &e) {
		return e.Code
	}
	if e := exitStatus(0); errors.As(err, &e) {
		return int(e)
	}
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Exit()
	}
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		switch d.Code {
		case access.CodeHeldExpired, access.CodeCancelled:
			return api.ExitHeld
		case access.CodeNoDecision:
			return api.ExitUnreachable
		}
		return api.ExitDenied
	}
	if unreachable(err) {
		return api.ExitUnreachable
	}
	return exitOther
}

// unreachable says whether an error is one of the network.
func unreachable(err error) bool {
	var ne net.Error
	var ue *url.Error
	if errors.As(err, new(*fs.PathError)) {
		return false // a file's error can time out as well
	}
	return errors.As(err, new(broker.Stranger)) || errors.As(err, &ue) || errors.As(err, &ne) || errors.Is(err, context.DeadlineExceeded)
}

// usage is an error of how the command was called.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return api.Because(api.ErrBadRequest, "see `"+cmd.CommandPath()+" --help`", format, args...)
}

// addOutput gives a command -o.
func addOutput(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "output", "o", "text", "text or json")
}

func checkOutput(cmd *cobra.Command, output string) error {
	if output != "text" && output != "json" {
		return usage(cmd, "-o %s: want text or json", output)
	}
	return nil
}

func wantsJSON(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	f := cmd.Flags().Lookup("output")
	return f != nil && f.Value.String() == "json"
}
