package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// read is step 3.
func (p *player) read(ctx context.Context) error {
	out, code, err := p.in(p.coder, `psql -c "select id, name, email, card_number from customers order by id"`)
	if err != nil || code != 0 {
		return fmt.Errorf("psql: exit %d, %w: %s", code, err, out)
	}
	p.show(out)
	err = errors.Join(contains(out, "Ada Lovelace", "Alan Turing", "1111", "5559", "(2 rows)"),
		absent(out, "ada@example.com", "alan@example.org", "4111111111111111", "5500005555555559"))
	if err != nil {
		return err
	}
	p.ok("names come as they are, e-mail addresses and card numbers masked")
	for sql, want := range map[string]string{
		"select upper(email) from customers where id = 1":                "A***@***.COM",
		"select count(*) as hits from customers where email like '%ex%'": "0\n",
		"copy customers to stdout":                                       "a***@***.com",
		"select c from customers c":                                      "a***@***.com",
	} {
		out, _, err := p.in(p.coder, fmt.Sprintf("psql -At -v VERBOSITY=verbose -c %s", quoteAll([]string{sql})))
		if err != nil {
			return err
		}
		if err := errors.Join(contains(out, want), absent(strings.ToLower(out), "ada@example")); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	p.ok("computed with, they stay masked: an expression gives A***@***.COM, a condition finds nothing; so they do as a whole row and in COPY")
	if out, code, err = p.cli(ctx, "", "classify", "app", "-o", "json"); err != nil || code != 0 {
		return fmt.Errorf("classify: exit %d, %w: %s", code, err, out)
	}
	if err := errors.Join(contains(out, `"column": "email"`, `"column": "card_number"`, `"masked": 2`), absent(out, "ada@example", "Ada", "A***")); err != nil {
		return fmt.Errorf("classify: %w", err)
	}
	p.ok("`sallyport classify` proposes these columns by their names; it too gets their values masked, and prints none")
	return p.searchCredential()
}

// searchCredential looks, as the child, wherever a child could look: its environment, the process list, what other processes
// leave readable, and every file it may read in the demo's directory.
func (p *player) searchCredential() error {
	decoy := "decoy-" + p.secret[len("canary-"):]
	readable := filepath.Join(p.bin, "readable")
	if err := os.WriteFile(readable, []byte(decoy), 0o644); err != nil {
		return err
	}
	defer func() { _ = os.Remove(readable) }() // goes with the directory otherwise
	search := fmt.Sprintf(`DECOY=%[1]s; export DECOY
(env; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; find %[2]s /tmp/sallyport* "$HOME" "${SALLYPORT_SOCK%%/*}" -type f -size -4096k -exec cat {} +) 2>/dev/null | tr '\0' '\n' | grep -aoE '(canary|decoy)-[A-Z0-9]+' | sort | uniq -c; true`,
		decoy, p.dir)
	out, code, err := p.in(p.coder, search)
	if err != nil || code != 0 {
		return fmt.Errorf("search: exit %d, %w: %s", code, err, out)
	}
	// The search itself must be able to find: the decoys in a readable file and in the environment prove it.
	if err := contains(out, decoy); err != nil {
		return fmt.Errorf("the search for the credential finds nothing at all: %w", err)
	}
	if p.child == nil {
		p.say("   --  coder runs as the same user as the agent: what it may read is not shown")
	} else if err := absent(out, p.secret); err != nil {
		return err
	}
	for _, file := range []string{filepath.Join(p.data, "agent", "agent.log")} {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := absent(string(b)+p.system.log(), p.secret); err != nil {
			return fmt.Errorf("a log holds the credential: %w", err)
		}
	}
	p.ok("searched as coder: environment, process list, readable files, logs; decoys were found, the credential was not")
	return nil
}

// denials is step 4: each statement carries a mark that PostgreSQL's log must not have.
func (p *player) denials(context.Context) error {
	live, err := start(p.tester, `psql -v VERBOSITY=verbose -v PROMPT1= -v PROMPT2= -qAt`)
	if err != nil {
		return err
	}
	p.testerLive = live
	for i, sql := range []string{
		`DELETE FROM orders WHERE id = 777001`,
		`SELECT 777002; DROP TABLE orders`,
		`WITH gone AS (DELETE FROM orders WHERE id = 777003 RETURNING *) SELECT * FROM gone`,
		`DO $$BEGIN PERFORM 777004; END$$`,
		`COPY (SELECT 777005) TO PROGRAM 'cat >/dev/null'`,
	} {
		from, alive := len(live.output()), fmt.Sprintf("alive-%d", i)
		if strings.HasPrefix(sql, "SELECT 777002") { // psql would split it: one message must carry both
			sql = strings.ReplaceAll(sql, "; ", `\; `)
		}
		if err := errors.Join(live.say(sql+";"), live.say("select '"+alive+"';")); err != nil {
			return err
		}
		out, err := live.until(from, alive+"\n", limit)
		if err != nil {
			return err
		}
		out = strings.TrimSuffix(strings.TrimSpace(out[from:]), alive)
		if err := contains(out, "ERROR:  42501", "denied by rule", "DETAIL:", "HINT:"); err != nil {
			return err
		}
		d, err := detail(out)
		if err != nil {
			return err
		}
		if err := check(d.Code != "" && d.Rule != "" && d.Hint != "", "code, rule and hint in %+v", d); err != nil {
			return err
		}
		p.ok("%-72.72s  %s", sql, d.Rule)
		if i == 0 {
			p.show(out)
		}
	}
	log, err := os.ReadFile(p.pg.LogFile)
	if err != nil {
		return err
	}
	if err := contains(string(log), "alive-0"); err != nil { // the log is the right one
		return err
	}
	if err := absent(string(log), "77700", "PROGRAM", "DROP TABLE"); err != nil {
		return err
	}
	p.ok("one session all along; PostgreSQL's own statement log has nothing of the five")
	return nil
}

// detail reads the DETAIL line of psql's verbose error.
func detail(out string) (access.Denied, error) {
	_, after, ok := strings.Cut(out, "DETAIL:")
	line, _, _ := strings.Cut(after, "\n")
	if !ok {
		return access.Denied{}, fmt.Errorf("no DETAIL in %s", out)
	}
	var d access.Denied
	return d, parse(strings.TrimSpace(line), &d)
}

// revoke is step 6.
func (p *player) revoke(ctx context.Context) error {
	live, err := start(p.coder, `psql -v VERBOSITY=verbose -v PROMPT1= -v PROMPT2= -qAt`)
	if err != nil {
		return err
	}
	p.coderLive = live
	if err := live.say("select 'before-revocation';"); err != nil {
		return err
	}
	if _, err := live.until(0, "before-revocation\n", limit); err != nil {
		return err
	}
	out, code, err := p.cli(ctx, "", "revoke", "coder", "--reason", "demo")
	if err != nil || code != 0 {
		return fmt.Errorf("revoke: exit %d, %w: %s", code, err, out)
	}
	p.show(out)
	for name, j := range map[string]*job{"coder": p.coderLive, "tester": p.testerLive} {
		from := len(j.output())
		_ = j.say("select 'after-revocation';") // the session may have been ended already
		out, err := j.until(from, "revoked", limit)
		if err != nil {
			return fmt.Errorf("%s's open session: %w", name, err)
		}
		if err := absent(out[from:], "after-revocation\n"); err != nil {
			return err
		}
	}
	for name, hands := range map[string]string{"coder": p.coder, "tester": p.tester} {
		out, code, err := p.in(hands, `psql -c "select 'after-revocation'"`)
		if err != nil {
			return err
		}
		if err := check(code != 0, "%s's new session to be refused: %s", name, out); err != nil {
			return err
		}
		p.ok("%s: open session ended, a new one is refused: %s", name, firstLine(out))
	}
	return nil
}

// outage is step 7, on a live session of alice's own.
func (p *player) outage(ctx context.Context) error {
	socket := filepath.Join(p.dir, "driver2")
	go func() { _ = serveOne(ctx, socket, p.env()) }() // ends with its one connection
	live, err := p.dialHands(socket, `exec sallyport psql app -- -v VERBOSITY=verbose -v PROMPT1= -v PROMPT2= -qAt`)
	if err != nil {
		return err
	}
	defer live.stop()
	ask := func(sql, want string) (string, error) {
		from := len(live.output())
		if err := live.say(sql); err != nil {
			return "", err
		}
		out, err := live.until(from, want, limit)
		if err != nil {
			return "", err
		}
		return out[from:], nil
	}
	if _, err := ask("select 'open-gate';", "open-gate\n"); err != nil {
		return err
	}
	if err := p.signalBroker(true); err != nil {
		return err
	}
	out, err := ask("select 777100;", "HINT")
	if err != nil {
		return err
	}
	p.show(out)
	if err := contains(out, "no decision: the gate is closed", "42501"); err != nil {
		return err
	}
	p.ok("the broker is stopped: the next command is refused, the session waits")
	out, code, err := p.cli(ctx, "", "psql", "app", "--", "-c", "select 777101")
	if err != nil {
		return err
	}
	if err := errors.Join(check(code != 0, "a new session to be refused"), absent(out, "777101\n")); err != nil {
		return err
	}
	p.ok("a new session is refused as well: %s", firstLine(out))
	if err := p.signalBroker(false); err != nil {
		return err
	}
	if _, err := ask("select 'open-again';", "open-again\n"); err != nil {
		return err
	}
	log, err := os.ReadFile(p.pg.LogFile)
	if err != nil {
		return err
	}
	if err := absent(string(log), "777100", "777101"); err != nil {
		return err
	}
	p.ok("the broker is back: the same session goes on; PostgreSQL saw nothing of what was refused")
	return nil
}

// dialHands waits for hands that are just starting.
func (p *player) dialHands(socket, shell string) (*job, error) {
	deadline := time.Now().Add(limit)
	for {
		j, err := start(socket, shell)
		if err == nil || time.Now().After(deadline) {
			return j, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
