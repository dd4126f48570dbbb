package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Problem is something wrong with a policy directory.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`   // from 1; 0 where the file as a whole is meant
	Column  int    `json:"column,omitempty"` // from 1; 0 where only the line is known
	Warning bool   `json:"warning,omitempty"`
	Message string `json:"message"`
}

// String is "file:line:column: message", which editors follow.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
		if p.Column > 0 {
			s += ":" + strconv.Itoa(p.Column)
		}
	}
	if p.Warning {
		return s + ": warning: " + p.Message
	}
	return s + ": " + p.Message
}

// Problems is why a directory was refused.
type Problems []Problem

// Error lists them, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return "policy: " + strings.Join(lines, "\n")
}

// place is where in a file something is written. The zero place is the file as a whole.
type place struct{ line, column int }

// findings collects problems while a directory is read.
type findings struct{ list Problems }

func (f *findings) errorf(file string, at place, format string, args ...any) {
	f.list = append(f.list, Problem{File: file, Line: at.line, Column: at.column, Message: fmt.Sprintf(format, args...)})
}

func (f *findings) warnf(file string, at place, format string, args ...any) {
	f.list = append(f.list, Problem{File: file, Line: at.line, Column: at.column, Warning: true, Message: fmt.Sprintf(format, args...)})
}

// sorted is every finding in reading order.
func (f *findings) sorted() []Problem {
	slices.SortStableFunc(f.list, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return f.list
}

// failed is the findings that are not warnings, or nil.
func (f *findings) failed() error {
	errs := slices.DeleteFunc(slices.Clone(f.sorted()), func(p Problem) bool { return p.Warning })
	if len(errs) == 0 {
		return nil
	}
	return Problems(errs)
}

// The parsers that we use say where only in their messages.
var (
	cedarPlace = regexp.MustCompile(`<input>:(\d+):(\d+):? ?`)
	yamlPlace  = regexp.MustCompile(`line (\d+)(?:, column (\d+))?: `)
)

// split takes the place out of a parser's message.
func split(where *regexp.Regexp, message string) (place, string) {
	m := where.FindStringSubmatchIndex(message)
	if m == nil {
		return place{}, message
	}
	number := func(i int) int {
		if m[i] < 0 {
			return 0
		}
		n, _ := strconv.Atoi(message[m[i]:m[i+1]]) // digits; one that overflows is no place
		return n
	}
	return place{number(2), number(4)}, message[:m[0]] + message[m[1]:]
}
