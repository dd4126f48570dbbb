// Package policy decides, purely, what a bundle of Cedar policies says about a command, and loads, tests and explains bundles.
// It refuses whatever no policy permits, what a policy could not be evaluated on, and every part of a bundle that it does not know.
package policy
