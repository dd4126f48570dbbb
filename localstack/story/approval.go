package story

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/api"
)

var linkShape = regexp.MustCompile(`https?://[^\s"]+/approve/([0-9A-Z]{26})`)

const update = `update accounts set balance = balance - 30 where id = 1`

// held starts an UPDATE as coder and waits for the notice with the approval's link.
func (p *player) held(sql string) (j *job, link, id string, err error) {
	if j, err = start(p.coder, "psql -v VERBOSITY=verbose -c "+quoteAll([]string{sql})); err != nil {
		return nil, "", "", err
	}
	out, err := j.until(0, "/approve/", limit)
	if err != nil {
		j.stop()
		return nil, "", "", err
	}
	m := linkShape.FindStringSubmatch(out)
	for range 100 { // the rest of the line may still be on its way
		if m != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
		m = linkShape.FindStringSubmatch(j.output())
	}
	if m == nil || !strings.Contains(out, "NOTICE") {
		j.stop()
		return nil, "", "", fmt.Errorf("expected a NOTICE with a link in: %s", out)
	}
	return j, m[0], m[1], nil
}

func (p *player) approval(ctx context.Context) error {
	first, link, id, err := p.held(update)
	if err != nil {
		return err
	}
	defer first.stop()
	p.show(first.output())
	// Another literal, held at the same time: it must not profit.
	other, _, otherID, err := p.held(strings.Replace(update, "30", "31", 1))
	if err != nil {
		return err
	}
	defer other.stop()
	if err := check(otherID != id, "another statement to have another approval"); err != nil {
		return err
	}
	if err := p.lookOnly(ctx, link, id); err != nil {
		return err
	}
	if err := p.requesterRefused(ctx, link, id); err != nil {
		return err
	}
	if err := p.review(ctx, link, "approve", update); err != nil {
		return err
	}
	out, code, err := first.wait(limit)
	if err != nil || code != 0 {
		return fmt.Errorf("the approved update: exit %d, %w: %s", code, err, out)
	}
	if err := contains(out, "UPDATE 1"); err != nil {
		return err
	}
	p.approved = id
	p.ok("psql goes on: UPDATE 1")
	if err := p.status(ctx, otherID, "pending"); err != nil {
		return fmt.Errorf("the statement with another literal: %w", err)
	}
	p.ok("the statement with another literal is still held")
	again, againLink, againID, err := p.held(update)
	if err != nil {
		return err
	}
	defer again.stop()
	if err := check(againID != id, "the same statement again to need another approval"); err != nil {
		return err
	}
	p.ok("the same statement again is held again")
	if err := p.review(ctx, againLink, "deny", update); err != nil {
		return err
	}
	out, code, err = again.wait(limit)
	if err != nil {
		return err
	}
	if err := errors.Join(check(code != 0, "a denied statement to fail"), contains(out, "42501", "held_denied")); err != nil {
		return err
	}
	p.ok("denied by the reviewer: psql gets SQLSTATE 42501")
	return p.balance(ctx, "70.00")
}

// balance asks PostgreSQL itself, past the gate: the oracle for what really happened.
func (p *player) balance(ctx context.Context, want string) error {
	res, err := p.pg.Exec(ctx, "select balance from accounts where id = 1")
	if err != nil {
		return err
	}
	got := string(res[0].Rows[0][0])
	return check(got == want, "a balance of %s, PostgreSQL has %s", want, got)
}

func (p *player) status(ctx context.Context, id, want string) error {
	out, code, err := p.cli(ctx, "", "approvals", "show", id, "-o", "json")
	if err != nil || code != 0 {
		return fmt.Errorf("approvals show: exit %d, %w: %s", code, err, out)
	}
	var v api.ApprovalView
	if err := parse(out, &v); err != nil {
		return err
	}
	return check(v.Status == want, "approval %s to be %s, it is %s", id, want, v.Status)
}

// lookOnly fetches the link many times, as mail scanners do, and posts to it without a session.
func (p *player) lookOnly(ctx context.Context, link, id string) error {
	for range 10 {
		b, err := p.browser()
		if err != nil {
			return err
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if _, err := b.do(ctx, method, link, nil); err != nil {
				return err
			}
		}
		if pg, err := b.do(ctx, http.MethodPost, link, url.Values{"verdict": {"approve"}}); err != nil {
			return err
		} else if pg.status < 300 && !strings.Contains(pg.body, `name="password"`) {
			return fmt.Errorf("a POST without a session was answered %d", pg.status)
		}
	}
	if err := p.status(ctx, id, "pending"); err != nil {
		return err
	}
	p.ok("the link was fetched 20 times and posted to 10 times without a login: nothing changed")
	return nil
}

// requesterRefused: alice may look at her own request, not approve it.
func (p *player) requesterRefused(ctx context.Context, link, id string) error {
	b, err := p.browser()
	if err != nil {
		return err
	}
	pg, err := b.signIn(ctx, link, "alice", p.file.Users["alice"])
	if err != nil {
		return err
	}
	if after, err := b.submit(ctx, pg, map[string]string{"verdict": "approve"}); err == nil && after.status < 400 {
		return fmt.Errorf("the requester's approval was answered %d: %s", after.status, after.text())
	}
	if err := p.status(ctx, id, "pending"); err != nil {
		return err
	}
	p.ok("alice, who asked, cannot approve it")
	return nil
}

// review logs in freshly as rita, reads the page as a person would, and posts the verdict.
func (p *player) review(ctx context.Context, link, verdict, statement string) error {
	b, err := p.browser()
	if err != nil {
		return err
	}
	pg, err := b.signIn(ctx, link, "rita", p.file.Users["rita"])
	if err != nil {
		return err
	}
	text := strings.Join(strings.Fields(pg.text()), " ")
	if err := contains(text, statement, "app", "shop", "alice", "coder", "prod-write"); err != nil {
		return fmt.Errorf("the reviewer's page (%s, status %d, %d bytes): %w", pg.url, pg.status, len(pg.body), err)
	}
	after, err := b.submit(ctx, pg, map[string]string{"verdict": verdict})
	if err != nil {
		return err
	}
	if after.status != http.StatusOK {
		return fmt.Errorf("the verdict was answered %d: %s", after.status, after.text())
	}
	if verdict == "approve" {
		p.ok("rita logs in freshly, sees the statement, target app, database shop, and the chain alice → coder, and approves")
		if again, err := b.submit(ctx, pg, map[string]string{"verdict": verdict}); err == nil && again.status < 400 {
			return fmt.Errorf("a second verdict was answered %d", again.status)
		}
	}
	return nil
}

// signalBroker stops or starts the broker alone, and waits until that shows.
func (p *player) signalBroker(stop bool) error {
	if err := p.system.outage(p.world, stop); err != nil {
		return err
	}
	at := p.system.door(p.world)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err == nil {
			_ = c.Close() // only whether it answers
		}
		if (err != nil) == stop {
			return nil
		}
	}
	return fmt.Errorf("the broker at %s did not go down or up (down: %v)", at, stop)
}
