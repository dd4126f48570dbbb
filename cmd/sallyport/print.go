package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// loginJSON is what `login -o json` prints: nothing that is secret.
type loginJSON struct {
	Lineage      access.Lineage    `json:"lineage"`
	Capability   access.Capability `json:"capability"`
	GrantExpires time.Time         `json:"grant_expires"`
}

func loginView(l state.Login) loginJSON {
	return loginJSON{Lineage: l.Lineage, Capability: l.Capability, GrantExpires: l.Grant}
}

// shown makes text that came from elsewhere fit to print: a command's text, a purpose or a reason could otherwise move the
// cursor and write over what stands around it. Line ends stay.
func shown(s string) string {
	if !strings.ContainsFunc(s, unfit) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unfit(r) {
			fmt.Fprintf(&b, "\\u{%x}", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unfit(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp))
}

// inline is shown where a line has a meaning of its own: a name with a line end would otherwise write the next one.
func inline(s string) string {
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(shown(s))
}

// oneLine is shown on a single line of at most n characters.
func oneLine(s string, n int) string {
	s = strings.Join(strings.Fields(shown(s)), " ")
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func groupsOf(groups []string) string {
	if len(groups) == 0 {
		return ""
	}
	return " (" + inline(strings.Join(groups, ", ")) + ")"
}

func grantlets(c access.Capability) string {
	if len(c) == 0 {
		return "nothing"
	}
	s := make([]string, len(c))
	for i, g := range c {
		s[i] = g.String()
	}
	return strings.Join(s, " ")
}

func printWhoami(w io.Writer, me api.Whoami) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n", inline(me.Lineage.Chain()), groupsOf(me.Lineage.Groups))
	if p := me.Lineage.Actor().Purpose; p != "" {
		fmt.Fprintf(&b, "purpose   %s\n", inline(p))
	}
	fmt.Fprintf(&b, "may       %s\n", grantlets(me.Capability))
	var roles []string
	if me.Administrator {
		roles = append(roles, "administrator")
	}
	if me.Auditor {
		roles = append(roles, "auditor")
	}
	if len(roles) > 0 {
		fmt.Fprintf(&b, "roles     %s\n", strings.Join(roles, ", "))
	}
	fmt.Fprintf(&b, "until     %s\n", clock(me.GrantExpires))
	_, err := io.WriteString(w, b.String())
	return err
}

func printApprovals(w io.Writer, all []api.ApprovalView) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no approvals")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tSTATUS\tTARGET\tWHO\tEXPIRES\tCOMMAND") // Flush reports what went wrong
	for _, v := range all {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", v.ID, v.Status, v.Target, oneLine(v.Lineage.Chain(), 40), clock(v.Expires), oneLine(v.Text, 60))
	}
	return t.Flush()
}

func printApproval(w io.Writer, v api.ApprovalView) error {
	var b strings.Builder
	fmt.Fprintf(&b, "approval  %s (%s)\nhold      %s\nwho       %s\ntarget    %s, database %s, role %s\n",
		v.ID, v.Status, inline(v.Hold), inline(v.Lineage.Chain()), v.Target, inline(v.State.Database), inline(v.State.Role))
	fmt.Fprintf(&b, "session   %s\ncommand   %s\n\n%s\n\n", v.Session, v.Command, indent(shown(v.Text)))
	if v.State.Prepared != "" {
		fmt.Fprintf(&b, "it runs by a name\n\n%s\n\n", indent(shown(v.State.Prepared)))
	}
	if v.Masked != "" {
		fmt.Fprintf(&b, "where its protected data must stay masked, this runs\n%s\n\n", indent(shown(v.Masked)))
	}
	for i, p := range v.Params {
		fmt.Fprintf(&b, "  $%d = %s\n", i+1, paramWord(p))
	}
	for _, t := range v.Touches {
		fmt.Fprintf(&b, "touches   %s\n", touchWord(t))
	}
	fmt.Fprintf(&b, "created   %s\nexpires   %s\n", clock(v.Created), clock(v.Expires))
	if v.By != "" {
		fmt.Fprintf(&b, "verdict   %s by %s at %s%s\n", v.Status, inline(v.By), clock(v.DecidedAt), reasonWord(v.Reason))
	}
	fmt.Fprintf(&b, "link      %s\n", inline(v.Link))
	_, err := io.WriteString(w, b.String())
	return err
}

func reasonWord(s string) string {
	if s == "" {
		return ""
	}
	return ": " + inline(s)
}

func paramWord(p access.Param) string {
	if p.Null {
		return "NULL"
	}
	return fmt.Sprintf("%q", p.Value)
}

func touchWord(t access.Touch) string {
	s := inline(fmt.Sprintf("%s %s %s", t.Effect, t.Resource.Kind, t.Resource.Name))
	if len(t.Resource.Columns) > 0 {
		s += " (" + inline(strings.Join(t.Resource.Columns, ", ")) + ")"
	}
	return s
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

func printSessions(w io.Writer, all []api.SessionView) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no sessions")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tSTATUS\tTARGET\tWHO\tOPENED\tCOMMANDS\tPROGRAM") // Flush reports what went wrong
	for _, s := range all {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.ID, s.Status, s.Target, oneLine(s.Lineage.Chain(), 40), clock(s.Opened),
			s.Count, oneLine(s.Client.Program, 20))
	}
	return t.Flush()
}

func printSession(w io.Writer, s api.SessionView) error {
	var b strings.Builder
	fmt.Fprintf(&b, "session   %s (%s)\ntarget    %s, through agent %s\nwho       %s%s\n",
		s.ID, s.Status, s.Target, s.Agent, inline(s.Lineage.Chain()), groupsOf(s.Lineage.Groups))
	for _, n := range s.Lineage.Path {
		if n.Purpose != "" {
			fmt.Fprintf(&b, "          %s is for: %s\n", inline(n.Name), inline(n.Purpose))
		}
	}
	fmt.Fprintf(&b, "program   %s, process %d of user %d\nopened    %s\nclosed    %s\n",
		inline(s.Client.Program), s.Client.PID, s.Client.UID, clock(s.Opened), clock(s.Closed))
	for _, c := range s.Commands {
		b.WriteString("\n")
		commandWords(&b, c)
	}
	recordingWords(&b, s.Recordings)
	if s.Partial {
		b.WriteString("\nthere are more commands than one answer has room for: the evidence log has them all\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// commandWords tells one command: what it was, what was decided and why, who approved it, and what came back.
func commandWords(b *strings.Builder, c api.CommandView) {
	fmt.Fprintf(b, "#%d  %s  %s\n%s\n", c.Seq, clock(c.Time), inline(c.Verb), indent(shown(c.Text)))
	if c.Prepared != "" {
		b.WriteString("    runs by a name\n" + indent(shown(c.Prepared)) + "\n")
	}
	if c.Result != nil && c.Result.Beneath {
		fmt.Fprintf(b, "    ran, with classes masked beneath, as\n%s\n", indent(shown(c.Masked)))
	}
	if c.Large {
		b.WriteString("    too large to be shown: `sallyport sessions export SESSION " + string(c.ID) + " --body FILE` writes all of it\n")
	}
	d := c.Decision
	fmt.Fprintf(b, "    %s by rule %q\n", outcomeWord(d.Outcome), d.Rule)
	for _, r := range d.Reasons {
		fmt.Fprintf(b, "      because   %s\n", inline(r))
	}
	for _, t := range c.Touches {
		fmt.Fprintf(b, "      touches   %s\n", touchWord(t))
	}
	for _, o := range d.Obligations {
		fmt.Fprintf(b, "      with      %s\n", obligationWord(o))
	}
	if d.Hint != "" && d.Outcome != access.Allow {
		fmt.Fprintf(b, "      next      %s\n", inline(d.Hint))
	}
	if v := c.Approval; v != nil {
		fmt.Fprintf(b, "      approval  %s %s", v.ID, v.Status)
		if v.By != "" {
			fmt.Fprintf(b, " by %s at %s%s", inline(v.By), clock(v.DecidedAt), reasonWord(v.Reason))
		}
		b.WriteString("\n")
	}
	b.WriteString("      result    " + resultWord(c) + "\n")
}

func resultWord(c api.CommandView) string {
	if c.Result == nil {
		if c.Decision.Outcome == access.Deny {
			return "did not run"
		}
		if c.Decision.Outcome == access.Hold && (c.Approval == nil || c.Approval.Status != "claimed") {
			return "did not run"
		}
		return "outcome unknown"
	}
	r := c.Result
	s := statusOf(r.Status)
	if r.Tag != "" {
		s += ", " + inline(r.Tag)
	}
	if r.Error != "" {
		s += ", error " + inline(r.Error)
	}
	s += fmt.Sprintf(", %d rows, %d bytes", r.Rows, r.Bytes)
	for _, class := range slices.Sorted(maps.Keys(r.Masked)) {
		s += fmt.Sprintf(", %d %s masked", r.Masked[class], inline(class))
	}
	return s + ", " + (time.Duration(r.Duration) * time.Microsecond).String()
}

func printActors(w io.Writer, all []api.ActorView) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no actors")
		return err
	}
	var b strings.Builder
	for _, v := range all {
		actorWords(&b, v, "")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func actorWords(b *strings.Builder, v api.ActorView, in string) {
	fmt.Fprintf(b, "%s%s  %s  %s until %s", in, inline(v.Node.Name), v.Node.ID, v.Status, clock(v.Expires))
	if v.Node.Purpose != "" {
		fmt.Fprintf(b, "  %s", oneLine(v.Node.Purpose, 60))
	}
	b.WriteString("\n")
	for _, s := range v.Sessions {
		fmt.Fprintf(b, "%s  · %s  %s  %s  %d commands\n", in, s.Target, s.ID, s.Status, s.Count)
	}
	for _, c := range v.Children {
		actorWords(b, c, in+"  ")
	}
}
