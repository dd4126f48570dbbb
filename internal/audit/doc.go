// Package audit defines the evidence: entries, their chain per session, the transparency log over all, and its offline proof.
// It refuses to call anything proven that it did not recompute.
package audit
