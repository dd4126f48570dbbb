package policy

import (
	"io/fs"

	"github.com/sallyport/sallyport/internal/access"
)

// Problem is something wrong with a policy directory.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`   // from 1; 0 where the file as a whole is meant
	Column  int    `json:"column,omitempty"` // from 1
	Warning bool   `json:"warning,omitempty"`
	Message string `json:"message"`
}

// TestResult is one case of tests/*.yaml.
type TestResult struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Name string `json:"name"`
	// Failures say what differs from what the case wants; none means that it passed.
	Failures []string `json:"failures,omitempty"`
	Verdict  Verdict  `json:"verdict"`
}

// Explanation is a verdict with the policies that were looked at, step by step.
type Explanation struct {
	Verdict Verdict `json:"verdict"`
	Steps   []Step  `json:"steps"`
}

// Step is one decision of Cedar: an effect on a resource, or reveal on a class of data.
type Step struct {
	Action   string         `json:"action"`
	Resource string         `json:"resource"` // as policies name it: Table::"app/public.orders"
	Outcome  access.Outcome `json:"outcome"`
	Rule     string         `json:"rule"`
	Policies []PolicyTrace  `json:"policies"`
}

// PolicyTrace says how one policy took part in a Step.
type PolicyTrace struct {
	ID      string `json:"id"`
	Effect  string `json:"effect"` // "permit", "forbid", "hold"
	Hold    string `json:"hold,omitempty"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Scope   bool   `json:"scope"`   // its scope may fit: it was evaluated
	Applies bool   `json:"applies"` // scope and conditions hold
	Error   string `json:"error,omitempty"`
}

// Lint finds every problem of a policy directory: errors, for which Load refuses it, and warnings.
func Lint(dir fs.FS) []Problem { return nil }

// Test runs the bundle's own cases.
func (b *Bundle) Test() []TestResult { return nil }

// Explain decides like Decide and says how.
func Explain(b *Bundle, r Request) Explanation { return Explanation{} }
