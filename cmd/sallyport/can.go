package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

func (a *app) canCommand() *cobra.Command {
	var output, kind, database string
	c := &cobra.Command{
		Use:   "can EFFECT TARGET [RESOURCE]",
		Short: "Ask what would be decided; nothing runs and nothing is recorded",
		Long: `Ask what would be decided if whoever speaks here had this effect on the resource: read, write, define, grant, execute, transfer,
forward or connect. Without RESOURCE the question is about the target as a whole. What is decided for a real command also depends on
its text. The exit code is 0 where it would be allowed, 4 where denied, 5 where held.`,
		Example: `  sallyport can read app public.customers
  sallyport can connect app -o json`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			r := api.CanRequest{Effect: access.Effect(args[0]), Target: access.TargetName(args[1]), Database: database}
			if !slices.Contains(access.Effects, r.Effect) {
				return usage(cmd, "effect %q is not one of %v", args[0], access.Effects)
			}
			if err := access.CheckName("target", args[1]); err != nil {
				return usage(cmd, "%v", err)
			}
			r.Resource = access.Resource{Kind: access.KindDatabase, Name: "*"}
			if len(args) == 3 {
				r.Resource = access.Resource{Kind: access.ResourceKind(kind), Name: args[2]}
			}
			return a.can(cmd, r, output == "json")
		},
	}
	c.Flags().StringVar(&kind, "kind", string(access.KindTable), "what RESOURCE is: table, function, database, setting or host")
	c.Flags().StringVar(&database, "database", "", "the database (default: the target's)")
	addOutput(c, &output)
	return c
}

func (a *app) can(cmd *cobra.Command, r api.CanRequest, asJSON bool) error {
	v, done, err := a.voice(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	var out api.CanResponse
	if err := v.Do(cmd.Context(), http.MethodPost, api.PathCan, r, &out); err != nil {
		return err
	}
	d := out.Decision
	if asJSON {
		err = printJSON(a.stdout, d)
	} else {
		err = a.printDecision(d)
	}
	if err != nil {
		return err
	}
	switch d.Outcome {
	case access.Allow:
		return nil
	case access.Hold:
		return exitStatus(api.ExitHeld)
	}
	return exitStatus(api.ExitDenied)
}

func (a *app) printDecision(d access.Decision) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s by rule %q\n", outcomeWord(d.Outcome), d.Rule)
	for _, r := range d.Reasons {
		fmt.Fprintf(&b, "  because  %s\n", inline(r))
	}
	for _, o := range d.Obligations {
		fmt.Fprintf(&b, "  with     %s\n", obligationWord(o))
	}
	if d.HoldName != "" {
		fmt.Fprintf(&b, "  held by  %s\n", inline(d.HoldName))
	}
	if d.Hint != "" {
		fmt.Fprintf(&b, "  next     %s\n", inline(d.Hint))
	}
	_, err := a.stdout.WriteString(b.String())
	return err
}

func outcomeWord(o access.Outcome) string {
	switch o {
	case access.Allow:
		return "allowed"
	case access.Hold:
		return "held for a reviewer"
	}
	return "denied"
}

func obligationWord(o access.Obligation) string {
	switch o.Kind {
	case access.ObligeMask:
		return "masked: " + strings.Join(o.Classes, ", ")
	case access.ObligeRows:
		return fmt.Sprintf("at most %d rows", o.Limit)
	case access.ObligeRecord:
		return "recorded in full"
	}
	return o.Kind
}
