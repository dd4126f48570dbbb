// Package deployed runs the system from its own SAM template and Lambda binaries, on a local AWS instead of a real one: MiniStack, with
// its roles enforced, or LocalStack.
// It refuses an endpoint that is not on loopback, and leaves nothing running.
package deployed
