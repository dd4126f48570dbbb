//go:build aws

package story

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dynamo"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/localstack/embedded"
	"github.com/sallyport/sallyport/localstack/localaws"
)

// told is what a story leaves behind, without what is of one run alone.
type told struct {
	heard    []string // what people were shown, refusals among it
	entries  []string // the audit trail, a line an entry, in no order
	sessions []string // what an auditor is shown
}

// The same story on SQLite, directories and key files, and on DynamoDB, S3 and KMS: people hear the same, and the evidence is the same.
func TestTheTwinsTellTheSameStory(t *testing.T) {
	tables, err := localaws.DynamoDB(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	rest, err := localaws.MiniStack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	local, cloud := tell(t), tell(t, "--aws", rest.URL, "--aws-tables", tables.URL)
	if len(local.entries) < 40 || len(local.sessions) < 5 || len(local.heard) < 40 {
		t.Fatalf("the story is too short: %d entries, %d sessions, %d lines", len(local.entries), len(local.sessions), len(local.heard))
	}
	for _, must := range []string{`"kind":"claim"`, `"outcome":"deny"`, `"kind":"revoke"`, `"status":"ok"`, `"masked"`} {
		if !strings.Contains(strings.Join(local.entries, ""), must) {
			t.Errorf("the story has no %s to compare", must)
		}
	}
	compare(t, "what people heard", local.heard, cloud.heard)
	compare(t, "audit entries", local.entries, cloud.entries)
	compare(t, "sessions", local.sessions, cloud.sessions)
}

func compare(t *testing.T, what string, local, cloud []string) {
	t.Helper()
	slices.Sort(local)
	slices.Sort(cloud)
	count := map[string]int{}
	for _, l := range local {
		count[l]++
	}
	for _, c := range cloud {
		count[c]--
	}
	for line, n := range count {
		if n != 0 {
			t.Errorf("%s: %+d on the embedded twin: %s", what, n, line)
		}
	}
}

// tell plays the steps that both twins have, and looks at what was stored before the system stops.
func tell(t *testing.T, more ...string) told {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := newWorld(t.Context(), Config{Bin: filepath.Join(root, "bin"), Out: &out}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	w.system = &dev{more: more}
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &player{world: w}
	for _, s := range p.story() {
		if s.title == stepRecord {
			break
		}
		if err := s.run(t.Context()); err != nil {
			t.Fatalf("%s: %v\n%s\n%s", s.title, err, out.String(), w.system.log())
		}
	}
	p.leave()
	var x told
	for line := range strings.Lines(out.String()) {
		x.heard = append(x.heard, plain(line))
	}
	x.sessions = sessionsOf(t, w)
	x.entries = entriesOf(t, w, len(more) > 0)
	return x
}

// sessionsOf is what an auditor is shown of every session, once all have ended.
func sessionsOf(t *testing.T, w *world) []string {
	t.Helper()
	w.home = filepath.Join(w.dir, "adam")
	if err := w.loginByToken(t.Context(), "adam", "administrators", "auditors"); err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) string {
		t.Helper()
		out, code, err := w.cli(t.Context(), "", args...)
		if err != nil || code != 0 {
			t.Fatalf("%q: %d %v %s", args, code, err, out)
		}
		return out
	}
	var all []struct{ ID, Status string }
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if err := json.Unmarshal([]byte(ask("sessions", "ls", "-o", "json")), &all); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(all, func(s struct{ ID, Status string }) bool { return s.Status == "open" }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("sessions that never end: %v", all)
		}
	}
	var shown []string
	for _, s := range all {
		shown = append(shown, plain(ask("sessions", "show", s.ID)))
	}
	return shown
}

// entriesOf reads the audit table itself.
func entriesOf(t *testing.T, w *world, aws bool) []string {
	t.Helper()
	var feed store.Feed
	if aws {
		b, err := os.ReadFile(filepath.Join(w.data, embedded.AWSFileName))
		if err != nil {
			t.Fatal(err)
		}
		var at map[string]string
		if err := json.Unmarshal(b, &at); err != nil {
			t.Fatal(err)
		}
		// Its feed holds back what is younger than a minute and a half: this one is ahead of that.
		if feed, err = dynamo.New(dynamo.Config{AWS: localaws.Config(at["AWS_ENDPOINT_URL_DYNAMODB"]), Tables: map[string]string{store.Audit: at[stack.TableAudit]},
			Now: func() time.Time { return time.Now().Add(3 * time.Minute) }}); err != nil {
			t.Fatal(err)
		}
	} else {
		db, err := sqlite.OpenReadOnly(filepath.Join(w.data, "broker", "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}()
		feed = db
	}
	entries := all(t.Context(), t, feed)
	chained(t, entries)
	lines := make([]string, len(entries))
	for i, e := range entries {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = plain(string(b))
	}
	return lines
}

func all(ctx context.Context, t *testing.T, feed store.Feed) []audit.Entry {
	t.Helper()
	const page = 500
	var entries []audit.Entry
	for after := ""; ; {
		items, next, err := feed.Since(ctx, store.Audit, after, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			var some []audit.Entry
			if err := json.Unmarshal(it.Body, &some); err != nil {
				t.Fatalf("%v in %s", err, it.Body)
			}
			entries = append(entries, some...)
		}
		if len(items) < page {
			return entries
		}
		after = next
	}
}

// chained holds every session's commands to its chain.
func chained(t *testing.T, entries []audit.Entry) {
	t.Helper()
	commands := slices.DeleteFunc(slices.Clone(entries), func(e audit.Entry) bool { return e.Kind != audit.KindCommand })
	slices.SortFunc(commands, func(a, b audit.Entry) int {
		if c := strings.Compare(string(a.Session), string(b.Session)); c != 0 {
			return c
		}
		return int(a.Seq) - int(b.Seq)
	})
	for i, e := range commands {
		seq, prev := uint64(1), audit.FirstLink(e.Session)
		if i > 0 && commands[i-1].Session == e.Session {
			b := commands[i-1]
			seq, prev = b.Seq+1, audit.Link(b.Prev, b.Decision.Command, b.Seq, b.Command.Digest)
		}
		if e.Seq != seq || e.Prev != prev {
			t.Errorf("session %s: command %d does not follow the one before it", e.Session, e.Seq)
		}
	}
}

// oneRuns are what is of one run alone.
var oneRuns = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`), "ULID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?`), "TIME"},
	{regexp.MustCompile(`"(digest|prev|id|key|jkt|body|auth_time|approval_id|sha256|command|bundle|thumbprint)":"[^"]{16,}"`), `"$1":"…"`},
	{regexp.MustCompile(`"(pid|uid|gid|ppid|duration_us|duration|stored|agent_time|start)":\d+`), `"$1":0`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+|on socket "[^"]*"`), "ADDRESS"},
	{regexp.MustCompile(`/tmp/[A-Za-z0-9/._-]+`), "PATH"},
	{regexp.MustCompile(`process \d+`), "process N"},
	{regexp.MustCompile(`, [0-9.]+(µs|ms|s)\b|\bin [0-9.]+ s\b|[0-9.]+ (ms|s)\b`), " DURATION"},
	{regexp.MustCompile(`[A-Za-z0-9_-]{43,}`), "HASH"},
}

func plain(s string) string {
	for _, r := range oneRuns {
		s = r.pattern.ReplaceAllString(s, r.word)
	}
	return fmt.Sprint(strings.TrimSpace(s))
}
