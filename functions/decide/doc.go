// Package decide answers agents: may this session open, may these commands run; what it answers is stored as evidence first.
// It refuses everything for which there is no clear yes: unknown callers, dead lineages, policy, a store that does not answer.
package decide
