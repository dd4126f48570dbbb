package ssh

import (
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// word is one argument: its text where that is certain.
type word struct {
	text  string
	known bool // every byte of text is what the program gets
	tilde bool // it starts with an unquoted ~: text is then what follows
	glob  bool // names that match take its place
	split bool // several words, or none, may take its place
}

// word reads one word. What it holds that runs is read as well.
func (w *walker) word(sw *syntax.Word) word {
	out := word{known: true}
	var b strings.Builder
	for i, p := range sw.Parts {
		switch p := p.(type) {
		case *syntax.Lit:
			text := p.Value
			if i == 0 && strings.HasPrefix(text, "~") {
				out.tilde = true
				if text = text[1:]; text != "" && text[0] != '/' || text == "" && len(sw.Parts) > 1 {
					out.known, out.tilde = false, false // ~user, or something that quoting makes none
				}
			}
			if strings.Contains(text, "~") && assigns(sw) {
				out.known = false // bash puts the home in its place, others do not
			}
			lit, ok := unquoted(text, len(sw.Parts) == 1)
			if !ok {
				out.glob, out.known = true, false
			}
			b.WriteString(lit)
		case *syntax.SglQuoted:
			if p.Dollar {
				out.known = false
			}
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			if p.Dollar {
				out.known = false
			}
			w.quoted(p.Parts, &b, &out)
		default:
			out.known = false
			out.split = out.split || !counts(p)
			w.expansion(p)
		}
	}
	out.text = b.String()
	return out
}

// assignment is the shape of a word in which bash replaces a ~ behind = and : as well.
var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\[.*\])?\+?=`)

func assigns(sw *syntax.Word) bool {
	first, ok := sw.Parts[0].(*syntax.Lit)
	return ok && assignment.MatchString(first.Value)
}

// counts says whether an expansion is a number that the shell itself keeps.
func counts(p syntax.WordPart) bool {
	e, ok := p.(*syntax.ParamExp)
	return ok && plain(e) && slices.Contains([]string{"?", "#", "$"}, e.Param.Value)
}

func (w *walker) quoted(parts []syntax.WordPart, b *strings.Builder, out *word) {
	for i, p := range parts {
		switch p := p.(type) {
		case *syntax.Lit:
			b.WriteString(quotedText(p.Value))
		case *syntax.ParamExp:
			if i == 0 && b.Len() == 0 && plainHome(p) && w.sh.home != "" {
				b.WriteString(w.sh.home)
				continue
			}
			out.known = false
			w.expansion(p)
		default:
			out.known = false
			w.expansion(p)
		}
	}
}

// plainHome says whether an expansion is $HOME and nothing else.
func plainHome(p *syntax.ParamExp) bool { return plain(p) && p.Param.Value == "HOME" }

// shownVariables hold no secret: a command may print them.
var shownVariables = []string{"HOME", "USER", "LOGNAME", "PWD", "HOSTNAME", "SHELL", "PATH", "LANG", "?", "#", "$"}

func plain(p *syntax.ParamExp) bool {
	return p.Param != nil && p.Exp == nil && p.Index == nil && p.Slice == nil && p.Repl == nil && !p.Excl && !p.Length &&
		!p.Width && !p.IsSet && p.Names == 0 && p.Flags == nil && p.NestedParam == nil && len(p.Modifiers) == 0
}

// expansion reads the commands in something whose value only the host knows.
func (w *walker) expansion(p syntax.WordPart) {
	syntax.Walk(p, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CmdSubst:
			w.apart(n.Stmts...)
			return false
		case *syntax.ProcSubst:
			w.apart(n.Stmts...)
			return false
		case *syntax.ParamExp:
			if !n.Short && !plain(n) || n.Param == nil || !slices.Contains(shownVariables, n.Param.Value) {
				w.unsure("it uses a variable")
			}
		case *syntax.ArithmExp, *syntax.BraceExp, *syntax.ExtGlob:
			w.unsure("it computes")
		}
		return true
	})
}

// unquoted is a literal outside of quotes, without its backslashes; ok is false where names, or several words, would take its place. alone
// says that it is the whole word: [ is a command's name then, and {} what find replaces.
func unquoted(s string, alone bool) (string, bool) {
	var b strings.Builder
	ok := true
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) && s[i] != '\n' {
				b.WriteByte(s[i])
			}
			continue
		case '*', '?', '[', '{':
			ok = ok && alone && (s == "[" || s == "{}")
		}
		b.WriteByte(s[i])
	}
	return b.String(), ok
}

// quotedText is a literal inside double quotes (POSIX.1-2024, Shell Command Language, 2.2.3).
func quotedText(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("$`\"\\\n", s[i+1]) >= 0 {
			if i++; s[i] != '\n' {
				b.WriteByte(s[i])
			}
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
