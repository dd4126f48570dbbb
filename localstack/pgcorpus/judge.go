package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// verdict is what became of one spelling.
type verdict string

// Verdicts. The first two are good.
const (
	stopped verdict = "stopped"     // an error, or the end of the session
	masked  verdict = "masked"      // an answer without what it must not have
	leaked  verdict = "leaked"      // a masked value, or what it depends on, reached the client
	ran     verdict = "ran"         // what must not happen happened
	reached verdict = "reached"     // refused, and yet the server has seen the text
	crashed verdict = "crashed"     // nobody can connect any more
	hung    verdict = "hung"        // no answer
	astray  verdict = "out of step" // what was answered to what is not clear any more
)

func (v verdict) good() bool { return v == stopped || v == masked }

// ground is the server behind everything.
type ground struct {
	admin  string // DSN of a superuser at the server itself
	log    string // the server's log; "" where it cannot be read
	conn   *pgx.Conn
	heard  *pgx.Conn // LISTENs
	victim *pgx.Conn
}

func openGround(ctx context.Context, admin, app, log string) (*ground, error) {
	g := &ground{admin: admin, log: log}
	var err error
	if g.conn, err = pgx.Connect(ctx, admin); err != nil {
		return nil, fmt.Errorf("connect to the server itself: %w", err)
	}
	// All texts are logged, those that are only parsed included.
	for _, sql := range []string{"alter system set log_statement = 'all'", "alter system set log_min_duration_statement = 0", "select pg_reload_conf()"} {
		if err := g.exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	if g.heard, err = pgx.Connect(ctx, admin); err != nil {
		return nil, err
	}
	if _, err := g.heard.Exec(ctx, "listen corpus"); err != nil {
		return nil, err
	}
	return g, g.seed(ctx)
}

func (g *ground) close() {
	for _, c := range []*pgx.Conn{g.conn, g.heard, g.victim} {
		if c != nil {
			_ = c.Close(context.Background()) //nolint:usetesting // not a test
		}
	}
}

func (g *ground) exec(ctx context.Context, sql string) error {
	_, err := g.conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// seed makes everything as it was.
func (g *ground) seed(ctx context.Context) error {
	if g.victim != nil && g.speak(ctx) != nil {
		g.victim = nil // it was ended
	}
	// Sessions that were left in a transaction would keep their tables.
	if err := g.exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app' and state like 'idle in transaction%'"); err != nil {
		return err
	}
	if err := g.exec(ctx, seedSQL); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if g.victim == nil {
		var err error
		if g.victim, err = pgx.Connect(ctx, g.admin+" application_name=corpus-victim"); err != nil {
			return err
		}
		return g.speak(ctx)
	}
	return nil
}

// speak gives the victim a last query that nobody else should read.
func (g *ground) speak(ctx context.Context) error {
	_, err := g.victim.Exec(ctx, "select 'victims-own-words'", pgx.QueryExecModeSimpleProtocol)
	return err
}

func (g *ground) is(ctx context.Context, sql string) (bool, error) {
	res, err := g.conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return false, fmt.Errorf("%s: %w", sql, err)
	}
	return len(res) > 0 && len(res[0].Rows) == 1 && string(res[0].Rows[0][0]) == "t", nil
}

// mark is where the log ends.
func (g *ground) mark() int64 {
	if info, err := os.Stat(g.log); err == nil {
		return info.Size()
	}
	return 0
}

// logged says whether the log has a text since the mark, whitespace apart.
func (g *ground) logged(mark int64, text string) bool {
	f, err := os.Open(g.log)
	if err != nil || text == "" {
		return false
	}
	defer func() { _ = f.Close() }() // read only
	if info, err := f.Stat(); err == nil && info.Size() < mark {
		return false
	}
	b := make([]byte, max(0, g.mark()-mark))
	n, _ := f.ReadAt(b, mark)
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	return strings.Contains(squeeze(string(b[:n])), squeeze(text))
}

// notified says whether the listening session heard something with that text.
func (g *ground) notified(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := g.heard.WaitForNotification(ctx)
	return err == nil
}

// subject is what is attacked.
type subject struct {
	name string
	dsn  string
	g    *ground
	// revive starts it again, where this program started it; nil elsewhere.
	revive func(context.Context) error
}

// standing starts a subject again that an attack has ended.
func (s *subject) standing(ctx context.Context) error {
	if s.revive == nil {
		return nil
	}
	if c, err := connect(ctx, s.dsn, nil); err == nil {
		c.close()
		return nil
	}
	return s.revive(ctx)
}

// judge runs one spelling.
func (s *subject) judge(ctx context.Context, a attack, sp spelling) (verdict, string, error) {
	if a.Admin != "" {
		if err := s.g.exec(ctx, a.Admin); err != nil {
			return "", "", fmt.Errorf("%s: %w", a.Admin, err)
		}
	}
	for a.Heard && s.g.notified(ctx) { // what came before is not of this spelling
	}
	mark := s.g.mark()
	t, err := s.attempt(ctx, a, sp)
	v, why := crashed, fmt.Sprint(err)
	if err == nil {
		v, why, err = s.weigh(ctx, a, sp, t, mark)
	} else if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		v, why, err = stopped, pg.Message, nil
	} else {
		err = nil
	}
	if a.Undo != "" {
		if e := s.g.exec(ctx, a.Undo); e != nil && err == nil {
			err = e
		}
	}
	return v, why, err
}

// attempt says the spelling and returns all that was answered.
func (s *subject) attempt(ctx context.Context, a attack, sp spelling) (*transcript, error) {
	c, err := connect(ctx, s.dsn, nil)
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.say(sp.chunks)
	if a.Between != "" {
		if err := s.g.exec(ctx, a.Between); err != nil {
			return nil, err
		}
		c.say(each(a.NextSame, 0, query))
	}
	if a.Notified {
		if err := s.g.exec(ctx, "notify corpus, '"+canaryWord+"'"); err != nil {
			return nil, err
		}
		c.say(each([]string{"SELECT 1", "SELECT 2"}, 0, query))
	}
	if len(a.Messages) > 0 && !c.t.cut && !c.t.hung {
		c.probe()
	}
	if len(a.Next) == 0 {
		return c.t, nil
	}
	c.close()
	n, err := connect(ctx, s.dsn, nil)
	if err != nil {
		return nil, err
	}
	defer n.close()
	n.say(each(a.Next, 0, query))
	c.t.raw, c.t.tags = append(c.t.raw, n.t.raw...), c.t.tags+n.t.tags
	c.t.rows, c.t.texts = append(c.t.rows, n.t.rows...), append(c.t.texts, n.t.texts...)
	return c.t, nil
}

const probe = "corpus-probe"

// probe asks something whose answer is known: a session that is out of step answers something else.
func (s *session) probe() {
	before := len(s.t.tags)
	s.say([]chunk{{query("ROLLBACK"), 1, 0}, {query("SELECT '" + probe + "'"), 1, 0}})
	got := strings.NewReplacer("S", "", "N", "").Replace(s.t.tags[before:])
	if !s.t.cut && got != "CZTDCZ" && got != "EZTDCZ" {
		s.t.tags += "!"
	}
}

// weigh decides what an answer means.
func (s *subject) weigh(ctx context.Context, a attack, sp spelling, t *transcript, mark int64) (verdict, string, error) {
	if a.Effect != "" {
		if done, err := s.g.is(ctx, a.Effect); err != nil || done {
			if done && a.After != "" {
				err = errors.Join(err, s.g.exec(ctx, a.After))
			}
			return ran, a.Effect, err
		}
	}
	last := a.reach()
	seen := s.g.logged(mark, last)
	switch {
	case a.Runs && seen && t.errors() == 0:
		return ran, last, nil
	case a.Heard && s.g.notified(ctx):
		return ran, "another session was notified", nil
	case a.Shows != "" && t.shows(a.Shows):
		return leaked, a.Shows, nil
	case a.Shows != "" || a.harms() || a.Heard:
	default:
		if why := leaks(t); why != "" {
			return leaked, why, nil
		}
	}
	switch {
	case t.hung:
		return hung, "no answer after " + t.tags, nil
	case strings.HasSuffix(t.tags, "!"):
		return astray, t.tags, nil
	case t.cut && t.errors() == 0:
		return astray, "the session ended without a word", nil
	case a.harms() && seen && !strings.Contains(sp.form, "explain"):
		return reached, last, nil
	case t.errors() > 0 || t.cut:
		return stopped, t.reason(), nil
	}
	return masked, "", nil
}

// reach is the text that must not arrive.
func (a attack) reach() string {
	if a.Reach != "" || len(a.Steps) == 0 || !a.harms() {
		return a.Reach
	}
	return a.Steps[len(a.Steps)-1]
}

// reason is the last error's message, for people.
func (t *transcript) reason() string {
	out := ""
	for _, b := range t.texts {
		for f := range strings.SplitSeq(string(b), "\x00") {
			if len(f) > 1 && f[0] == 'M' {
				out = f[1:]
			}
		}
	}
	return out
}

// guess runs both guesses and compares.
func (s *subject) guess(ctx context.Context, a attack, n int, all bool) (verdict, string, error) {
	var answers [2]string
	var last *transcript
	for i := range a.Guess {
		g := attack{Steps: a.Guess[i : i+1], Forms: a.Forms}
		sps, err := g.spellings(all)
		if err != nil {
			return "", "", err
		}
		t, err := s.attempt(ctx, g, sps[n])
		if err != nil {
			return crashed, err.Error(), nil //nolint:nilerr // that is the verdict
		}
		answers[i], last = t.comparable(a), t
		if t.hung {
			return hung, "", nil
		}
	}
	switch {
	case answers[0] != answers[1]:
		return leaked, "the answers to a right and a wrong guess differ", nil
	case last.errors() > 0:
		return stopped, last.reason(), nil
	}
	return masked, "", nil
}

// comparable is an answer without the guess itself, which refusals and plans may repeat.
func (t *transcript) comparable(a attack) string {
	var b strings.Builder
	for _, r := range t.rows {
		b.Write(r)
		b.WriteByte('\n')
	}
	text := t.tags + b.String()
	if len(a.Without) > 0 {
		// Lengths of what is cut out would tell the two apart.
		text = regexp.MustCompile(`[\x00-\x1f]+.`).ReplaceAllString(text, " ")
	}
	for _, w := range a.Without {
		text = regexp.MustCompile(w).ReplaceAllString(text, "?")
	}
	return text
}
