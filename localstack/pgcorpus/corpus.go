package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

//go:embed cases.yaml
var casesYAML []byte

//go:embed seed.sql
var seedSQL string

// row is one trick, in a number of attacks.
type row struct {
	ID      string
	Ours    bool // not in the public list
	Limit   bool // known not to be stopped; shown, not counted
	Tries   string
	Attacks []attack
	Wire    []string // names in wireCases
	Hostile []string // names in hostileCases
	Control control
}

// attack is described in cases.yaml.
type attack struct {
	Steps       []string
	Guess       []string
	Without     []string // expressions that are cut out of both answers
	Messages    [][]any
	Next        []string // on a connection of its own, afterwards
	Between     string   // what an administrator does before NextSame
	NextSame    []string `yaml:"next_same"`
	Admin, Undo string   // what an administrator does before and after
	After       string   // what an administrator does where it worked
	Forms       []string
	Effect      string
	Shows       string
	Reach       string
	Runs        bool
	Heard       bool // worked when another session hears a notification
	Notified    bool // worked when the client hears another session's notification
	Moot        bool
	Trusts      bool // needs a policy that permits what it uses to do anything at all
	Ready       int  // how often the server says ReadyForQuery
}

// control must pass.
type control struct {
	Steps    []string
	Messages [][]any
	Want     string
	Errors   int // that belong to it
	Forms    []string
}

// load reads the cases, strictly.
func load() ([]row, error) {
	var file struct{ Rows []row }
	d := yaml.NewDecoder(bytes.NewReader(casesYAML))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("cases.yaml: %w", err)
	}
	for i, r := range file.Rows {
		for _, w := range r.Wire {
			if wireCases[w] == nil {
				return nil, fmt.Errorf("%s: no case on the wire is named %q", r.ID, w)
			}
		}
		for _, h := range r.Hostile {
			if _, ok := hostileCases[h]; !ok {
				return nil, fmt.Errorf("%s: no hostile server is named %q", r.ID, h)
			}
		}
		if slices.ContainsFunc(file.Rows[:i], func(o row) bool { return o.ID == r.ID }) {
			return nil, fmt.Errorf("%s: twice", r.ID)
		}
		for n, a := range r.Attacks {
			if _, err := a.spellings(true); err != nil {
				return nil, fmt.Errorf("%s, attack %d: %w", r.ID, n+1, err)
			}
		}
	}
	return file.Rows, nil
}

// harms says whether the attack is about what happens at the server.
func (a attack) harms() bool { return a.Effect != "" || a.Runs }
