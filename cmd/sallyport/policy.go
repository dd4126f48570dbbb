package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/policies"
)

func policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Write, check, test and explain policies",
		Long: `A policy directory says who may do what: Cedar policies, names and labels of targets, holds, classes of data, roles, and cases that
show that it does what it is meant to. These commands work on a directory; none of them asks a broker.`}
	c.AddCommand(policyInitCommand(), policyLintCommand(), policyTestCommand(), policyExplainCommand())
	return c
}

func policyInitCommand() *cobra.Command {
	var pack string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Start a policy directory from a ready-made pack",
		Long: "Write a pack into DIR, which must not exist or be empty. Packs: " + strings.Join(policies.Names, ", ") + ".\n\n" +
			"Then put your own targets, tables and groups in, and see `sallyport policy lint` and `sallyport policy test`.",
		Example: `  sallyport policy init ./policy --pack guarded-postgres`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := policies.Pack(pack)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			if err := newDirectory(args[0]); err != nil {
				return usage(cmd, "%v", err)
			}
			if err := os.CopyFS(args[0], from); err != nil {
				return fmt.Errorf("write pack %s: %w", pack, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is in %s; next: sallyport policy test %s\n", pack, args[0], args[0])
			return err
		},
	}
	c.Flags().StringVar(&pack, "pack", policies.Names[0], "which pack: "+strings.Join(policies.Names, ", "))
	return c
}

// newDirectory makes a directory, or takes an empty one: nothing of the user's is written over.
func newDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	return nil
}

func policyLintCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "lint DIR",
		Short: "Find everything that is wrong with a policy directory",
		Long: `Read a policy directory as strictly as the broker does and list every problem as FILE:LINE:COLUMN. Errors keep the directory from
being loaded; warnings do not. The exit code is 2 where there are errors.`,
		Example: `  sallyport policy lint ./policy
  sallyport policy lint ./policy -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := policyDir(cmd, args[0], output)
			if err != nil {
				return err
			}
			problems := policy.Lint(dir)
			if err := printLint(cmd.OutOrStdout(), args[0], problems, output == "json"); err != nil {
				return err
			}
			if slices.ContainsFunc(problems, func(p policy.Problem) bool { return !p.Warning }) {
				return exitStatus(api.ExitUsage)
			}
			return nil
		},
	}
	addOutput(c, &output)
	return c
}

// policyDir opens a policy directory given on the command line.
func policyDir(cmd *cobra.Command, dir, output string) (fs.FS, error) {
	if err := checkOutput(cmd, output); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, usage(cmd, "%v", err)
	}
	if !info.IsDir() {
		return nil, usage(cmd, "%s is not a directory", dir)
	}
	return os.DirFS(dir), nil
}

func printLint(w io.Writer, dir string, problems []policy.Problem, asJSON bool) error {
	if asJSON {
		if problems == nil {
			problems = []policy.Problem{}
		}
		return printJSON(w, map[string]any{"problems": problems})
	}
	for _, p := range problems {
		p.File = filepath.Join(dir, p.File)
		if _, err := fmt.Fprintln(w, shown(p.String())); err != nil {
			return err
		}
	}
	if len(problems) == 0 {
		_, err := fmt.Fprintln(w, "nothing to say")
		return err
	}
	return nil
}

func policyTestCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "test DIR",
		Short: "Run the cases of a policy directory",
		Long: `Run the cases of DIR/tests/*.yaml. Each says who asks for what and what must be decided. The exit code is 2 where a case fails, where
there are none, and where the directory cannot be loaded.`,
		Example: `  sallyport policy test ./policy`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := loadPolicy(cmd, args[0], output)
			if err != nil {
				return err
			}
			results := b.Test()
			failed := 0
			for _, r := range results {
				if len(r.Failures) > 0 {
					failed++
				}
			}
			if err := printTests(cmd.OutOrStdout(), args[0], b.Address, results, failed, output == "json"); err != nil {
				return err
			}
			if failed > 0 || len(results) == 0 {
				return exitStatus(api.ExitUsage)
			}
			return nil
		},
	}
	addOutput(c, &output)
	return c
}

func loadPolicy(cmd *cobra.Command, dir, output string) (*policy.Bundle, error) {
	from, err := policyDir(cmd, dir, output)
	if err != nil {
		return nil, err
	}
	b, err := policy.Load(from)
	if err != nil {
		return nil, api.Because(api.ErrBadRequest, "sallyport policy lint "+dir, "%v", err)
	}
	return b, nil
}

func printTests(w io.Writer, dir, address string, results []policy.TestResult, failed int, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]any{"address": address, "passed": len(results) - failed, "failed": failed, "results": results})
	}
	var b strings.Builder
	for _, r := range results {
		if len(r.Failures) == 0 {
			continue
		}
		fmt.Fprintf(&b, "FAIL %s:%d: %s\n", filepath.Join(dir, r.File), r.Line, shown(r.Name))
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "     %s\n", shown(f))
		}
		verdictWords(&b, r.Verdict, "     ")
	}
	fmt.Fprintf(&b, "%d passed, %d failed, bundle %s\n", len(results)-failed, failed, address)
	_, err := io.WriteString(w, b.String())
	return err
}

func verdictWords(b *strings.Builder, v policy.Verdict, in string) {
	fmt.Fprintf(b, "%s%s by rule %q\n", in, outcomeWord(v.Outcome), v.Rule)
	for _, r := range v.Reasons {
		fmt.Fprintf(b, "%s  because  %s\n", in, shown(r))
	}
	for _, o := range v.Obligations {
		fmt.Fprintf(b, "%s  with     %s\n", in, obligationWord(o))
	}
	if v.Hold != "" {
		fmt.Fprintf(b, "%s  held by  %s\n", in, shown(v.Hold))
	}
	if v.Hint != "" {
		fmt.Fprintf(b, "%s  next     %s\n", in, shown(v.Hint))
	}
}

// question is what `policy explain` asks where it is given no case.
type question struct {
	caseName, user, verb, target, effect, kind, resource string
	groups, actors, classes, approved, capability        []string
	noWhere, deletes                                     bool
}

func policyExplainCommand() *cobra.Command {
	var output string
	var q question
	c := &cobra.Command{
		Use:   "explain DIR",
		Short: "Say which policies decide a question, and how",
		Long: `Decide one question and list, step by step, the policies whose scope fits and whether each applies. The question is one of the
directory's cases, or is put together from flags.`,
		Example: `  sallyport policy explain ./policy --case 'coder updates one account, held'
  sallyport policy explain ./policy --user alice --group engineers --actor coder --target app --effect write --resource public.accounts`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := loadPolicy(cmd, args[0], output)
			if err != nil {
				return err
			}
			e, err := q.explain(cmd, b)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return printExplanation(cmd.OutOrStdout(), e)
		},
	}
	f := c.Flags()
	f.StringVar(&q.caseName, "case", "", "name of a case in tests/*.yaml; no other flag then")
	f.StringVar(&q.user, "user", "", "who logged in")
	f.StringArrayVar(&q.groups, "group", nil, "a group of the user; repeated")
	f.StringArrayVar(&q.actors, "actor", nil, "an actor below the user, outermost first; repeated")
	f.StringArrayVar(&q.capability, "allow", nil, "a line of the capability, EFFECTS:TARGET[/RESOURCE]; repeated (default: everything)")
	f.StringVar(&q.target, "target", "", "the target")
	f.StringVar(&q.effect, "effect", "read", "the effect; connect asks about opening a session")
	f.StringVar(&q.kind, "kind", string(access.KindTable), "what the resource is: table, function, database, setting or host")
	f.StringVar(&q.resource, "resource", "", "the resource, like public.orders")
	f.StringVar(&q.verb, "verb", "", "the statement's verb (default: SELECT for read, UPDATE for write)")
	f.StringArrayVar(&q.classes, "class", nil, "a class of data that takes part; repeated")
	f.StringArrayVar(&q.approved, "approved", nil, "a hold that is approved; repeated")
	f.BoolVar(&q.noWhere, "no-where", false, "an UPDATE or DELETE has no WHERE")
	f.BoolVar(&q.deletes, "deletes", false, "the statement removes rows")
	addOutput(c, &output)
	return c
}

func (q question) explain(cmd *cobra.Command, b *policy.Bundle) (policy.Explanation, error) {
	if q.caseName != "" {
		e, ok := b.Case(q.caseName)
		if !ok {
			return e, usage(cmd, "no case is named %q", q.caseName)
		}
		return e, nil
	}
	if q.user == "" || q.target == "" {
		return policy.Explanation{}, usage(cmd, "want --case, or --user and --target")
	}
	r := policy.Request{Target: access.TargetName(q.target), Approved: q.approved, Capability: access.Everything(), Now: time.Now(),
		Lineage: access.Lineage{Principal: q.user, Groups: q.groups, Assurance: access.Exchanged, AuthTime: time.Now(),
			Path: []access.Node{{ID: "login", Name: q.user}}}}
	for i, name := range q.actors {
		r.Lineage.Path = append(r.Lineage.Path, access.Node{ID: access.ActorID(fmt.Sprintf("actor-%d", i+1)), Name: name})
	}
	if len(q.capability) > 0 {
		r.Capability = nil
	}
	for _, s := range q.capability {
		g, err := access.ParseGrantlet(s)
		if err != nil {
			return policy.Explanation{}, usage(cmd, "%v", err)
		}
		r.Capability = append(r.Capability, g)
	}
	effect := access.Effect(q.effect)
	if effect == access.Connect {
		return policy.ExplainConnect(b, r), nil
	}
	if !slices.Contains(access.Effects, effect) && effect != access.Unknown {
		return policy.Explanation{}, usage(cmd, "effect %q is not one of %v, unknown", q.effect, access.Effects)
	}
	r.Command = access.Command{Verb: q.verb, Complete: effect != access.Unknown,
		Facts:   access.Facts{HasWhere: !q.noWhere, Deletes: q.deletes, Statement: 1},
		Touches: []access.Touch{{Effect: effect, Resource: access.Resource{Kind: access.ResourceKind(q.kind), Name: q.resource}}}}
	if q.verb == "" {
		r.Command.Verb = map[access.Effect]string{access.Read: "SELECT", access.Write: "UPDATE"}[effect]
	}
	for _, class := range q.classes {
		r.Command.Classes = append(r.Command.Classes, access.ClassUse{Class: class, On: q.resource})
	}
	return policy.Explain(b, r), nil
}

func printExplanation(w io.Writer, e policy.Explanation) error {
	var b strings.Builder
	verdictWords(&b, e.Verdict, "")
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "\n%s on %s: %s by %q\n", s.Action, shown(s.Resource), s.Outcome, s.Rule)
		if len(s.Policies) == 0 {
			b.WriteString("  no policy's scope fits\n")
		}
		for _, p := range s.Policies {
			how := "does not apply"
			switch {
			case p.Error != "":
				how = "cannot be evaluated: " + p.Error
			case p.Applies:
				how = "applies"
			}
			fmt.Fprintf(&b, "  %-7s %-28s %s (%s:%d)\n", p.Effect, p.ID, shown(how), shown(p.File), p.Line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
