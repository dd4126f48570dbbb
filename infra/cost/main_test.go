package main

import (
	"strings"
	"testing"
)

func TestCost(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-template", "../template.yaml", "-tunnel", "../tunnel.yaml"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"4 KMS keys", "entries written", "decide, 50 reserved", "0 secrets", "2 relays of 0.50 processors and 1.0 GB",
		"0.62  entries written", "one command: 1 read and 1 write units a decision", "64 commands of one session: 0.0156 read", "copies, every five minutes", "over a day of 32895 decisions: 288 files"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	var less strings.Builder
	if err := run([]string{"-template", "../template.yaml", "-tunnel", "../tunnel.yaml", "-decisions", "0", "-agents", "0", "DecideConcurrency=0"}, &less); err != nil {
		t.Fatal(err)
	}
	if less.String() == out.String() || !strings.Contains(less.String(), "decide: nothing is reserved") || !strings.Contains(less.String(), "0 decisions, 0 agents with a session all month\n       0.00") {
		t.Errorf("parameters and decisions change nothing:\n%s", less.String())
	}
	var closed strings.Builder
	if err := run([]string{"-template", "../template.yaml", "-tunnel", "../tunnel.yaml", "AgentAccess=aws", "MinRelays=4", "WebhookUrl=https://x.example"}, &closed); err != nil ||
		!strings.Contains(closed.String(), "decide: AWS refuses") || !strings.Contains(closed.String(), "4 relays") || !strings.Contains(closed.String(), "1 secrets") {
		t.Errorf("%v\n%s", err, closed.String())
	}
	for _, bad := range [][]string{{"-template", "../template.yaml", "-tunnel", "../tunnel.yaml", "Nosuch=1"}, {"-template", "../template.yaml", "-tunnel", "../tunnel.yaml", "DecideConcurrency"}, {"-template", "nosuch"}, {"-template", "main.go"}, {"-nosuch"}} {
		if err := run(bad, &out); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}
