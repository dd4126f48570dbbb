// Package changes tells a live agent what it must know: which of its sessions must end, and which verdicts came in.
// It refuses to speak of sessions and approvals of other agents, and gives no answer at all where a store gave none.
package changes
