package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// result is what became of a row.
type result struct {
	row     row
	count   map[verdict]int
	real    int // spellings that work at the bare server, without any proxy
	control string
	bad     []string // spellings that were not stopped, and why
	seen    map[string]string
	took    time.Duration
}

func (r *result) add(v verdict, spelling, why string) {
	r.count[v]++
	if !v.good() {
		r.bad = append(r.bad, fmt.Sprintf("%s: %s: %s", spelling, v, why))
	} else if r.seen != nil {
		r.seen[spelling] = string(v) + ": " + why
	}
}

// player runs rows against a subject.
type player struct {
	ground   *ground
	turncoat *turncoat // nil: no hostile servers
	all      bool      // every form
	verbose  io.Writer // nil: says nothing on the way
}

// bare plays every attack, and every control, at the server itself: what does nothing there is no attack, and no control may fail there. It returns which
// spellings work, by name.
func (p *player) bare(ctx context.Context, rows []row, dsn string) (map[string]bool, error) {
	works := map[string]bool{}
	s := &subject{name: "bare", dsn: dsn, g: p.ground}
	for _, r := range rows {
		for n, a := range r.Attacks {
			sps, err := a.spellings(p.all)
			if err != nil {
				return nil, err
			}
			for i, sp := range sps {
				if !p.all && i != n%len(sps) {
					continue
				}
				v, why, err := p.one(ctx, s, a, sp, i)
				if err != nil {
					return nil, fmt.Errorf("%s, attack %d, %s, at the bare server: %w", r.ID, n+1, sp.form, err)
				}
				works[name(r, n, sp)] = v == leaked || v == ran
				if p.verbose != nil && !a.Moot && v != leaked && v != ran {
					_, _ = fmt.Fprintf(p.verbose, "bare: %s: %s %s\n", name(r, n, sp), v, why)
				}
				if v == ran || a.Between != "" || a.Admin != "" || changes(a) {
					if err := p.ground.seed(ctx); err != nil {
						return nil, fmt.Errorf("%s: %w", name(r, n, sp), err)
					}
				}
			}
		}
	}
	for _, r := range rows {
		if why := p.control(ctx, s, r.Control); why != "" {
			return nil, fmt.Errorf("%s: its control fails at the bare server, so it says nothing: %s", r.ID, why)
		}
	}
	return works, p.ground.seed(ctx)
}

var writes = regexp.MustCompile(`(?i)\b(create|insert|update|alter|drop|into|merge|comment|grant|lo_)\b`)

// changes says whether an attack leaves something behind at a server without a guard.
func changes(a attack) bool {
	return a.harms() || writes.MatchString(strings.Join(append(a.Steps, a.Guess...), " "))
}

func name(r row, n int, sp spelling) string { return fmt.Sprintf("%s/%d %s", r.ID, n+1, sp.form) }

func (p *player) one(ctx context.Context, s *subject, a attack, sp spelling, i int) (verdict, string, error) {
	if len(a.Guess) > 0 {
		return s.guess(ctx, a, i, p.all)
	}
	return s.judge(ctx, a, sp)
}

// play runs all rows.
func (p *player) play(ctx context.Context, rows []row, s *subject, works map[string]bool) ([]result, error) {
	var out []result
	for _, r := range rows {
		began := time.Now()
		res := result{row: r, count: map[verdict]int{}, seen: map[string]string{}}
		if err := s.standing(ctx); err != nil {
			return nil, err
		}
		if err := p.attacks(ctx, s, r, works, &res); err != nil {
			return nil, err
		}
		for _, w := range r.Wire {
			v, why, err := s.wire(ctx, w)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", r.ID, w, err)
			}
			res.add(v, w, why)
		}
		if p.turncoat != nil {
			for _, h := range r.Hostile {
				v, why, err := s.hostile(ctx, p.turncoat, h)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", r.ID, h, err)
				}
				res.add(v, h, why)
			}
		}
		if err := s.standing(ctx); err != nil {
			return nil, err
		}
		res.control = p.control(ctx, s, r.Control)
		res.took = time.Since(began)
		out = append(out, res)
	}
	return out, nil
}

func (p *player) attacks(ctx context.Context, s *subject, r row, works map[string]bool, res *result) error {
	for n, a := range r.Attacks {
		sps, err := a.spellings(p.all)
		if err != nil {
			return err
		}
		for i, sp := range sps {
			if !p.all && i != n%len(sps) {
				continue
			}
			v, why, err := p.one(ctx, s, a, sp, i)
			if err != nil {
				return fmt.Errorf("%s: %w", name(r, n, sp), err)
			}
			if v == reached && works != nil && !works[name(r, n, sp)] {
				v = stopped // a text that does no harm may arrive
			}
			res.add(v, name(r, n, sp), why)
			if p.verbose != nil && !v.good() {
				_, _ = fmt.Fprintf(p.verbose, "%s: %s: %s\n", name(r, n, sp), v, why)
			}
			if works[name(r, n, sp)] {
				res.real++
			}
			if v == ran || v == leaked && changes(a) || a.Between != "" || a.Admin != "" && a.Undo == "" {
				if err := p.ground.seed(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// control plays the harmless statements in the forms that they name, or simple and extended. It returns what is wrong.
func (p *player) control(ctx context.Context, s *subject, c control) string {
	a := attack{Steps: c.Steps, Messages: c.Messages, Forms: c.Forms}
	if len(a.Forms) == 0 && len(a.Messages) == 0 {
		a.Forms = []string{"simple"}
		if !slices.ContainsFunc(c.Steps, func(sql string) bool {
			return strings.Contains(sql, "; ") && !strings.Contains(sql, "'") && !strings.Contains(sql, "/*") && !strings.Contains(sql, "$a$")
		}) {
			a.Forms = append(a.Forms, "extended", "extended split")
			if c.Errors == 0 {
				a.Forms = append(a.Forms, "as drivers") // after an error a driver would not go on like this
			}
		}
	}
	sps, err := a.spellings(true)
	if err != nil {
		return err.Error()
	}
	for _, sp := range sps {
		t, err := s.attempt(ctx, a, sp)
		switch {
		case err != nil:
			return sp.form + ": " + err.Error()
		case t.errors() != c.Errors || t.cut || t.hung || strings.HasSuffix(t.tags, "!"):
			return fmt.Sprintf("%s: %s %s", sp.form, t.tags, t.reason())
		case !t.contains(c.Want):
			return sp.form + ": not what was asked for"
		}
	}
	return ""
}

// table writes what became of every row, and then every spelling that was not stopped.
func table(w io.Writer, s *subject, results []result) (holes, refusals int) {
	order := []verdict{stopped, masked, leaked, ran, reached, crashed, hung, astray}
	_, _ = fmt.Fprintf(w, "%s\n\nid\ttries\tworks bare", s.name)
	for _, v := range order {
		_, _ = fmt.Fprintf(w, "\t%s", v)
	}
	_, _ = fmt.Fprintln(w, "\tcontrol\tseconds")
	for _, r := range results {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d", r.row.ID, r.row.Tries, r.real)
		for _, v := range order {
			_, _ = fmt.Fprintf(w, "\t%d", r.count[v])
			if !v.good() && !r.row.Limit {
				holes += r.count[v]
			}
		}
		control := "passes"
		if r.control != "" {
			control = "REFUSED"
			refusals++
		}
		_, _ = fmt.Fprintf(w, "\t%s\t%.1f\n", control, r.took.Seconds())
	}
	for _, r := range results {
		for _, b := range r.bad {
			_, _ = fmt.Fprintln(w, map[bool]string{true: "LIMIT", false: "HOLE"}[r.row.Limit], b)
		}
		if r.control != "" {
			_, _ = fmt.Fprintln(w, "REFUSED", r.row.ID, "control", r.control)
		}
	}
	_, _ = fmt.Fprintf(w, "%d holes, %d controls refused\n", holes, refusals)
	return holes, refusals
}
