package main

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"
)

// needsFile is what calls of decide need of DynamoDB; a test of localstack/measure counts it.
//
//go:embed needs.tsv
var needsFile string

// Lines of it.
const (
	oneCommand    = "one command"
	batch         = "64 commands of one session"
	sessions      = "64 sessions of one login"
	heldCommand   = "one held command"
	firstOfSecond = "the first of a second"
)

// need is one call's.
type need struct{ decisions, reads, writes float64 }

func readNeeds() (map[string]need, error) {
	all := map[string]need{}
	for line := range strings.Lines(needsFile) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, "\t")
		var ofCall, ofSession, gets, puts float64
		var outcome string
		var n need
		if _, err := fmt.Sscan(rest, &ofCall, &ofSession, &outcome, &gets, &puts, &n.reads, &n.writes); err != nil {
			return nil, fmt.Errorf("needs.tsv: %q: %w", line, err)
		}
		n.decisions = ofCall * ofSession
		all[name] = n
	}
	for _, name := range []string{oneCommand, batch, sessions, heldCommand, firstOfSecond} {
		if all[name].decisions == 0 {
			return nil, errors.New("needs.tsv: no line " + name)
		}
	}
	return all, nil
}

// ways are a million decisions, all of one kind.
func (t template) ways(needs map[string]need) []line {
	var all []line
	for _, name := range []string{oneCommand, firstOfSecond, batch, sessions, heldCommand} {
		n := needs[name]
		seconds := secondsPerCall
		if n.decisions > 1 {
			seconds = secondsPerBatch
		}
		calls := 1e6 / n.decisions
		all = append(all, line{calls * (t.call("Decide", seconds) + n.reads*dynamoRead + n.writes*dynamoWrite),
			fmt.Sprintf("%s: %.3g read and %.3g write units a decision", name, n.reads/n.decisions, n.writes/n.decisions)})
	}
	return all
}
