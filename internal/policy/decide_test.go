package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport/sallyport/internal/access"
)

// ask is a request by alice's coder, an engineer, that tests change.
func ask(changes ...func(*Request)) Request {
	r := Request{Target: "app", Agent: "a1", Capability: access.Everything(), Now: noon,
		Lineage: access.Lineage{Principal: "alice", Groups: []string{"engineers"}, Assurance: access.Exchanged, AuthTime: noon,
			Path: []access.Node{{ID: "r", Name: "alice"}, {ID: "c", Name: "coder", Purpose: "fix it"}}},
		Command: access.Command{Verb: "SELECT", Complete: true, Facts: access.Facts{HasWhere: true, Statement: 1},
			State: access.State{Database: "app", Role: "app", SearchPath: "public"}}}
	for _, change := range changes {
		change(&r)
	}
	return r
}

func touch(e access.Effect, kind access.ResourceKind, name string, columns ...string) func(*Request) {
	return func(r *Request) {
		r.Command.Touches = append(r.Command.Touches, access.Touch{Effect: e, Resource: access.Resource{Kind: kind, Name: name, Columns: columns}})
	}
}

func read(table string, columns ...string) func(*Request) {
	return touch(access.Read, access.KindTable, table, columns...)
}

func write(table string, columns ...string) func(*Request) {
	return touch(access.Write, access.KindTable, table, columns...)
}

func uses(class string, derived bool) func(*Request) {
	return func(r *Request) {
		r.Command.Classes = append(r.Command.Classes, access.ClassUse{Class: class, On: "public.t." + class, Derived: derived, How: "in WHERE"})
	}
}

func beneath(class string) func(*Request) {
	return func(r *Request) {
		r.Command.Classes = append(r.Command.Classes, access.ClassUse{Class: class, On: "public.t." + class, Derived: true, Beneath: true, How: "in WHERE"})
	}
}

func as(user string, groups ...string) func(*Request) {
	return func(r *Request) { r.Lineage.Principal, r.Lineage.Groups = user, groups }
}

func may(lines ...string) func(*Request) {
	return func(r *Request) {
		r.Capability = nil
		for _, s := range lines {
			g, err := access.ParseGrantlet(s)
			if err != nil {
				panic(err)
			}
			r.Capability = append(r.Capability, g)
		}
	}
}

func approved(holds ...string) func(*Request) {
	return func(r *Request) { r.Approved = holds }
}

func prepared(r *Request)   { r.Command.Prepare = true }
func incomplete(r *Request) { r.Command.Complete, r.Command.Why = false, "DO is not looked into" }

// word is a verdict in short: outcome, rule, hold, masks.
func word(v Verdict) string {
	s := v.Outcome.String() + " " + v.Rule
	if v.Hold != "" {
		s += " hold=" + v.Hold
	}
	for _, o := range v.Obligations {
		s += " " + o.Kind + "=" + strings.Join(o.Classes, ",")
		if o.Limit != 0 {
			s += fmt.Sprint(o.Limit)
		}
	}
	return s
}

const extra = `
@id("unknown-ok") permit (principal in User::"root", action == Action::"unknown", resource in Target::"app");
@id("everything") permit (principal in User::"root", action, resource);
@id("secret-held") @hold("audit-read") forbid (principal, action == Action::"write", resource == Table::"app/public.both");
@id("secret-held-2") @hold("prod-write") forbid (principal, action == Action::"write", resource == Table::"app/public.both");
@id("pay-held") @hold("audit-read") forbid (principal, action == Action::"read", resource == Column::"app/public.staff.pay");
@id("prod") forbid (principal, action == Action::"execute", resource in Label::"env=prod") unless { context.time.toTime() < duration("18h") };
@id("kept") @record("content") permit (principal in Group::"engineers", action in [Action::"read", Action::"write"], resource == Table::"app/public.kept");
@id("few") @rows("100") permit (principal in Group::"engineers", action in [Action::"read", Action::"write"], resource == Table::"app/public.few");
@id("fewer") @rows("5") permit (principal in Group::"engineers", action == Action::"write", resource == Table::"app/public.few");
@id("kept-held") @hold("prod-write") forbid (principal, action == Action::"write", resource == Table::"app/public.kept");
@id("fn") permit (principal in Group::"engineers", action == Action::"execute", resource == Function::"app/lower");
@id("overflow") forbid (principal, action == Action::"define", resource) when { context.delegation.depth + 9223372036854775807 > 0 };
@id("overflow-held") @hold("audit-read") forbid (principal, action == Action::"grant", resource) when { context.facts.row_limit + 9223372036854775807 > 0 };
@id("overflow-reveal") permit (principal, action == Action::"reveal", resource == DataClass::"card") when { context.facts.row_limit + 9223372036854775807 > 0 };
@id("overflow-column") forbid (principal, action, resource == Column::"app/public.odd.c") when { context.delegation.depth + 9223372036854775807 > 0 };
@id("reveal-all-held") @hold("prod-write") forbid (principal, action, resource in Target::"app") when { context.verb == "REVEAL" };
@id("host") permit (principal in Group::"engineers", action == Action::"transfer", resource is Host in Target::"app");
@id("other-read") permit (principal in Group::"engineers", action in [Action::"connect", Action::"read"], resource in Target::"files");
@id("twice") permit (principal in Group::"engineers", action in [Action::"forward", Action::"forward"], resource in Database::"app/app");
`

func TestDecide(t *testing.T) {
	b := load1(t, "b.cedar", extra)
	long := strings.Repeat("é", 100)
	for _, c := range []struct {
		name string
		r    Request
		want string
	}{
		{"allowed", ask(read("public.orders")), "allow read"},
		{"nobody permitted it", ask(as("mallory"), read("public.orders")), "deny default-deny"},
		{"two effects", ask(read("public.orders"), write("public.orders")), "allow read"},
		{"the strictest of many", ask(read("public.a"), write("public.accounts"), read("public.b")), "hold held hold=prod-write"},
		{"denied beats held", ask(write("public.accounts"), touch(access.Grant, access.KindTable, "public.a")), "deny default-deny"},
		{"approved", ask(write("public.accounts"), approved("prod-write")), "allow write"},
		{"approved under another name", ask(write("public.accounts"), approved("audit-read", "x")), "hold held hold=prod-write"},
		{"held only where permitted", ask(as("mallory"), write("public.accounts")), "deny default-deny"},
		{"prepared", ask(write("public.accounts"), prepared), "allow held"},
		{"prepared, denied", ask(as("mallory"), write("public.accounts"), prepared), "deny default-deny"},
		{"two holds on one table", ask(write("public.both")), "deny several-holds"},
		{"two holds, one approved", ask(write("public.both"), approved("audit-read")), "hold secret-held-2 hold=prod-write"},
		{"two holds, both approved", ask(write("public.both"), approved("audit-read", "prod-write")), "allow write"},
		{"two holds on two tables", ask(write("public.accounts"), read("public.audit")), "deny several-holds"},
		{"two holds, prepared", ask(write("public.both"), prepared), "deny several-holds"},

		{"recorded, where two permit", ask(read("public.kept")), "allow read record="},
		{"recorded and masked", ask(read("public.orders"), read("public.kept"), uses("email", false)), "allow read mask=email record="},
		{"recorded once approved", ask(write("public.kept"), approved("prod-write")), "allow write record="},
		{"masked beneath", ask(read("public.orders"), beneath("email")), "allow read mask=email"},
		{"revealed, and so not masked beneath", ask(as("rita", "engineers"), read("public.orders"), beneath("email")), "allow read"},
		{"one revealed and one masked beneath", ask(as("rita", "engineers"), read("public.orders"), beneath("email"), beneath("ssn")), "deny not-maskable:ssn"},
		{"one masked beneath and one that cannot be", ask(read("public.orders"), beneath("email"), uses("ssn", true)), "deny not-maskable:ssn"},
		{"few rows", ask(read("public.few")), "allow read rows=100"},
		{"the fewest rows, of those that permit", ask(write("public.few")), "allow write rows=5"},
		{"held before it is recorded", ask(write("public.kept")), "hold kept-held hold=prod-write"},
		{"denied beside what is recorded", ask(read("public.kept"), touch(access.Grant, access.KindTable, "public.a")), "deny default-deny"},

		{"refused by the agent", ask(read("public.orders"), func(r *Request) { r.Command.Refused = &access.Refusal{Rule: "floor.x", Hint: "no"} }), "deny floor.x"},
		{"nothing touched", ask(), "deny no-touches"},
		{"too many touches", ask(func(r *Request) { r.Command.Touches = make([]access.Touch, MaxTouches+1) }), "deny too-many-resources"},
		{"too many classes", ask(read("public.a"), func(r *Request) { r.Command.Classes = make([]access.ClassUse, MaxClasses+1) }), "deny too-many-resources"},
		{"unknown target", ask(read("public.a"), func(r *Request) { r.Target = "ap" }), "deny unknown-target"},
		{"unknown kind", ask(touch(access.Read, "pod", "x")), "deny unknown-resource"},
		{"no principal", ask(as(""), read("public.a")), "deny no-lineage"},
		{"no path", ask(read("public.a"), func(r *Request) { r.Lineage.Path = nil }), "deny no-lineage"},
		{"an actor without id", ask(read("public.a"), func(r *Request) { r.Lineage.Path[1].ID = "" }), "deny no-lineage"},
		{"a circle", ask(read("public.a"), func(r *Request) { r.Lineage.Path[1].ID = "r" }), "deny no-lineage"},
		{"a path without end", ask(read("public.a"), func(r *Request) {
			for i := range maxPath {
				r.Lineage.Path = append(r.Lineage.Path, access.Node{ID: access.ActorID(fmt.Sprint(i))})
			}
		}), "deny no-lineage"},

		{"incomplete", ask(read("public.orders"), incomplete), "deny incomplete"},
		{"incomplete without touches", ask(incomplete), "deny incomplete"},
		{"incomplete comes before the capability", ask(read("public.orders"), incomplete, may("read:app/public.x")), "deny incomplete"},
		{"incomplete, permitted", ask(as("root"), read("public.orders"), incomplete), "allow unknown-ok"},
		{"incomplete, permitted, narrow capability", ask(as("root"), read("public.orders"), incomplete, may("*:app/public.*")), "deny capability"},
		{"incomplete, permitted, whole target", ask(as("root"), read("public.orders"), incomplete, may("*:app")), "allow unknown-ok"},
		{"an unknown effect", ask(touch("drop", access.KindTable, "public.orders")), "deny incomplete"},
		{"an unknown effect needs more than permit all", ask(as("root"), touch("", access.KindTable, "public.orders"), func(r *Request) { r.Target = "files" }), "deny incomplete"},

		{"capability", ask(write("public.orders"), may("read:app/*")), "deny capability"},
		{"capability of another target", ask(read("public.orders"), may("read:files")), "deny capability"},
		{"capability covers", ask(write("public.orders"), may("read:app/*", "write:app/public.o*")), "allow write"},
		{"no capability", ask(read("public.orders"), may()), "deny capability"},
		{"capability and BEGIN", ask(touch(access.Read, access.KindDatabase, "app"), may("write:app/public.orders")), "allow read"},
		{"capability and SHOW", ask(touch(access.Read, access.KindSetting, "server_version"), may("write:app/public.orders")), "allow read"},
		{"capability and BEGIN elsewhere", ask(touch(access.Read, access.KindDatabase, "app"), may("write:files/public.orders")), "deny capability"},
		{"capability of no effect", ask(touch(access.Read, access.KindDatabase, "app"), func(r *Request) { r.Capability = access.Capability{{Target: "*", Resource: "*"}} }), "deny capability"},

		{"the default database", ask(touch(access.Read, access.KindDatabase, ""), func(r *Request) { r.Command.State.Database = "" }), "allow read"},
		{"a target without database", ask(touch(access.Read, access.KindTable, "x.y"), func(r *Request) { r.Target, r.Command.State.Database = "files", "" }), "allow other-read"},
		{"in a database", ask(touch(access.Forward, access.KindTable, "public.x")), "allow twice"},
		{"the host is in no database", ask(touch(access.Forward, access.KindHost, "files")), "deny default-deny"},
		{"in another database", ask(touch(access.Forward, access.KindTable, "public.x"), func(r *Request) { r.Command.State.Database = "b" }), "deny default-deny"},
		{"a function", ask(touch(access.Execute, access.KindFunction, "lower")), "allow fn"},
		{"by label and time", ask(touch(access.Execute, access.KindFunction, "lower"), func(r *Request) { r.Now = noon.Add(8 * 3600e9) }), "deny prod"},
		{"the host", ask(touch(access.Transfer, access.KindHost, "program")), "allow host"},
		{"connect as a touch", ask(touch(access.Connect, access.KindDatabase, "app"), may("read:app/public.x")), "allow connect"},

		{"a column that a policy names", ask(read("public.staff", "name", "salary")), "deny no-salary"},
		{"other columns", ask(read("public.staff", "name")), "allow read"},
		{"all columns", ask(read("public.staff")), "deny no-salary"},
		{"a column that is held", ask(read("public.staff", "pay")), "hold pay-held hold=audit-read"},
		{"a column that is held, approved", ask(read("public.staff", "pay"), approved("audit-read")), "allow read"},
		{"a column that is held, of a table that is denied", ask(as("mallory"), read("public.staff", "pay")), "deny default-deny"},
		{"a column's policy of another effect", ask(write("public.staff", "pay")), "allow write"},
		{"a column whose policy fails", ask(read("public.odd", "c")), "deny policy-error"},

		{"masked", ask(read("public.t"), uses("email", false), uses("email", false)), "allow read mask=email"},
		{"derived", ask(read("public.t"), uses("email", false), uses("email", true)), "deny not-maskable:email"},
		{"revealed", ask(as("rita", "engineers"), read("public.t"), uses("email", true)), "allow read"},
		{"a class that the bundle does not have", ask(read("public.t"), uses("zip", false)), "allow read mask=zip"},
		{"a reveal that cannot be evaluated", ask(read("public.t"), uses("card", false), func(r *Request) { r.Command.Facts.RowLimit = 1 }), "deny policy-error"},
		{"held and masked", ask(write("public.accounts"), uses("email", false)), "hold held hold=prod-write"},
		{"held and not maskable", ask(write("public.accounts"), uses("email", true)), "deny not-maskable:email"},
		{"approved and masked", ask(write("public.accounts"), uses("email", false), approved("prod-write")), "allow write mask=email"},
		{"a hold on everything does not reveal", ask(as("rita", "engineers"), read("public.t"), uses("email", true), func(r *Request) { r.Command.Verb = "REVEAL" }), "deny not-maskable:email"},
		{"until it is approved", ask(as("rita", "engineers"), read("public.t"), uses("email", true), approved("prod-write"), func(r *Request) { r.Command.Verb = "REVEAL" }), "allow read"},

		{"a policy fails", ask(touch(access.Define, access.KindTable, "public.t")), "deny policy-error"},
		{"a hold fails", ask(as("root"), touch(access.Grant, access.KindTable, "public.t"), func(r *Request) { r.Command.Facts.RowLimit = 1 }), "deny policy-error"},
		{"names that do not print", ask(as("mallory"), read("public.\x1b[2J"+long)), "deny default-deny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Decide(b, c.r)
			if got := word(v); got != c.want {
				t.Errorf("got %s, want %s\n%+v", got, c.want, v)
			}
			if v.Outcome == access.Deny && v.Code == "" {
				t.Error("a denial without a code")
			}
			if v.Outcome != access.Allow && v.Hint == "" || strings.ContainsAny(v.Hint, "\x1b\n") {
				t.Errorf("hint %q", v.Hint)
			}
			if e := Explain(b, c.r); !reflect.DeepEqual(e.Verdict, v) {
				t.Errorf("explained as %+v", e.Verdict)
			}
			again, err := FromArchive(b.Archive())
			if err != nil {
				t.Fatal(err)
			}
			if w := Decide(again, c.r); !reflect.DeepEqual(w, v) {
				t.Errorf("after the archive: %+v", w)
			}
		})
	}
}

func TestVerdictSaysWhy(t *testing.T) {
	b := load1(t, "b.cedar", extra)
	v := Decide(b, ask(read("public.accounts"), write("public.accounts", "balance"), approved("prod-write")))
	want := []string{"read permits read on table public.accounts", "write permits read on table public.accounts",
		"write permits write on table public.accounts", "held is approved under hold prod-write for write on table public.accounts"}
	if !slices.Equal(v.Reasons, want) {
		t.Errorf("got %q", v.Reasons)
	}
	if v := Decide(b, ask(write("public.accounts"))); v.Hint != "Wait." || !slices.Contains(v.Reasons, "held holds under prod-write write on table public.accounts") {
		t.Errorf("held: %+v", v)
	}
	if v := Decide(b, ask(read("public.staff", "pay"))); v.Hint != "read on table public.staff column pay waits for a reviewer" {
		t.Errorf("held without @hint: %+v", v)
	}
	if v := Decide(b, ask(read("public.staff", "salary"))); v.Hint != "the policy forbids read on table public.staff column salary" {
		t.Errorf("forbidden without @hint: %+v", v)
	}
	v = Decide(b, ask(write("public.x"), may("read:app/public.orders")))
	if v.Hint != "this token may only read:app/public.orders, not write on table public.x: ask the parent for a wider one" {
		t.Errorf("capability: %q", v.Hint)
	}
	if v := Decide(b, ask(read("public.t"), uses("email", true))); v.Code != access.CodeNotMaskable || !strings.Contains(v.Hint, "public.t.email is email data and is used in WHERE") {
		t.Errorf("not maskable: %+v", v)
	}
	if v := Decide(b, ask(incomplete)); !strings.HasPrefix(v.Hint, "DO is not looked into: ") {
		t.Errorf("incomplete: %q", v.Hint)
	}
	many := ask()
	for i := range 100 {
		read(fmt.Sprintf("public.t%d", i))(&many)
	}
	if v := Decide(b, many); v.Outcome != access.Allow || len(v.Reasons) != maxReasons {
		t.Errorf("%d reasons", len(v.Reasons))
	}
}

func TestConnect(t *testing.T) {
	b := load1(t, "b.cedar", extra+`
@id("night") forbid (principal, action == Action::"connect", resource) when { context.time.toTime() < duration("6h") };
@id("held-all") @hold("prod-write") forbid (principal, action, resource in Target::"files");
`)
	for _, c := range []struct {
		name string
		r    Request
		want string
	}{
		{"allowed", ask(may("read:app/public.x")), "allow connect"},
		{"whatever the command was", ask(incomplete, func(r *Request) { r.Command.Refused = &access.Refusal{} }), "allow connect"},
		{"not permitted", ask(as("mallory")), "deny default-deny"},
		{"forbidden", ask(func(r *Request) { r.Now = noon.Add(-7 * 3600e9) }), "deny night"},
		{"out of reach", ask(may("read:files")), "deny capability"},
		{"unknown target", ask(func(r *Request) { r.Target = "x" }), "deny unknown-target"},
		{"a hold on everything", ask(func(r *Request) { r.Target = "files" }), "allow held-all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Connect(b, c.r)
			if got := word(v); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if e := ExplainConnect(b, c.r); !reflect.DeepEqual(e.Verdict, v) {
				t.Errorf("explained as %+v", e.Verdict)
			}
		})
	}
}

func TestZeroDenies(t *testing.T) {
	if v := (Verdict{}); v.Outcome != access.Deny {
		t.Error("the zero Verdict does not deny")
	}
	for _, b := range []*Bundle{nil, {}, {Targets: []Target{{Name: "app"}}}} {
		if v := Decide(b, ask(read("public.t"))); v.Outcome != access.Deny {
			t.Errorf("%+v allows", b)
		}
		if v := Connect(b, ask()); v.Outcome != access.Deny {
			t.Errorf("%+v connects", b)
		}
	}
	if v := Decide(load1(t), Request{}); v.Outcome != access.Deny {
		t.Error("the zero Request is allowed")
	}
	if v := guard(func() Verdict { panic("a fault of the engine") }); v.Outcome != access.Deny || v.Rule != RulePolicyError {
		t.Errorf("a panic is %+v", v)
	}
}

func TestContext(t *testing.T) {
	for _, c := range []struct {
		when string
		r    func(*Request)
	}{
		{`context.verb == "SELECT"`, func(r *Request) {}},
		{`context.agent == "a1"`, func(r *Request) {}},
		{`context.time == datetime("2026-01-07T12:00:00Z")`, func(r *Request) {}},
		{`context.approvals.contains("prod-write")`, approved("prod-write")},
		{`context.classes == ["email"]`, uses("email", false)},
		{`context.facts.complete && !context.facts.prepare`, func(r *Request) {}},
		{`context.facts.prepare`, prepared},
		{`context.facts.functions.contains("now")`, func(r *Request) { r.Command.Facts.Functions = []string{"now"} }},
		{`context.facts.has_where`, func(r *Request) {}},
		{`context.facts.deletes`, func(r *Request) { r.Command.Facts.Deletes = true }},
		{`context.facts.locks`, func(r *Request) { r.Command.Facts.Locks = true }},
		{`context.facts.in_txn`, func(r *Request) { r.Command.Facts.InTxn = true }},
		{`context.facts.row_limit == 5`, func(r *Request) { r.Command.Facts.RowLimit = 5 }},
		{`context.facts.statements == 2`, func(r *Request) { r.Command.Facts.Statement = 2 }},
		{`context.state.database == "app" && context.state.role == "app" && context.state.search_path == "public"`, func(r *Request) {}},
		{`context.delegation.actor == "coder" && context.delegation.actors == ["coder"]`, func(r *Request) {}},
		{`context.delegation.actors.isEmpty()`, func(r *Request) { r.Lineage.Path = r.Lineage.Path[:1] }},
		{`context.delegation.assurance >= 2 && context.delegation.depth == 1 && context.delegation.purpose == "fix it"`, func(r *Request) {}},
		{`context.time.durationSince(context.delegation.auth_time) == duration("1h")`, func(r *Request) { r.Lineage.AuthTime = noon.Add(-3600e9) }},
		{`context.delegation.auth_time == datetime("1970-01-01")`, func(r *Request) {
			r.Lineage.AuthTime = r.Lineage.AuthTime.AddDate(-3000, 0, 0)
			r.Lineage.AuthTime = access.Lineage{}.AuthTime
		}},
		{`principal.name == "coder" && principal in User::"alice" && principal in Actor::"r" && principal in Group::"engineers"`, func(r *Request) {}},
		{`resource.name == "public.x" && resource in Database::"app/app" && resource in Target::"app" && resource in Label::"env=prod"`, func(r *Request) {}},
	} {
		only := "@id(\"only\") permit (principal, action == Action::\"read\", resource is Table) when { " + c.when + " };"
		if v := Decide(load1(t, "a.cedar", only+stillHolds), ask(read("public.x"), c.r)); v.Outcome != access.Allow {
			t.Errorf("%s does not hold: %+v", c.when, v)
		}
		not := "@id(\"only\") permit (principal, action == Action::\"read\", resource is Table) unless { " + c.when + " };"
		if v := Decide(load1(t, "a.cedar", not+stillHolds), ask(read("public.x"), c.r)); v.Rule != RuleDefaultDeny {
			t.Errorf("%s does not matter: %+v", c.when, v)
		}
	}
}

// TestTimePasses: what is remembered of a request must not stop the clock for a policy that looks at it, however it spells that.
func TestTimePasses(t *testing.T) {
	for _, when := range []string{
		`context.time.toTime() < duration("13h")`,
		`context["t\u{69}me"].toTime() < duration("13h")`,
		`context has "time" && context["time"] < datetime("2026-01-07T13:00:00Z")`,
	} {
		b := load1(t, "a.cedar", "@id(\"only\") permit (principal, action == Action::\"read\", resource is Table) when { "+when+" };"+stillHolds)
		for _, later := range []time.Duration{0, 2 * time.Hour, 0} {
			want := access.Allow
			if later > 0 {
				want = access.Deny
			}
			if v := Decide(b, ask(read("public.x"), func(r *Request) { r.Now = noon.Add(later) })); v.Outcome != want {
				t.Errorf("%s, %s after noon: %+v", when, later, v)
			}
		}
	}
}

// stillHolds is what the cases of small need to be loaded.
const stillHolds = `
@id("h1") @hold("prod-write") forbid (principal, action == Action::"write", resource == Table::"app/public.accounts");
@id("h2") @hold("audit-read") forbid (principal, action == Action::"read", resource == Table::"app/public.audit");
`

// TestIndexLeavesNothingOut holds the index against evaluating every policy, on random scopes and requests.
func TestIndexLeavesNothingOut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	outcomes := map[access.Outcome]int{}
	for range 60 {
		b := load1(t, "a.cedar", randomPolicies(rnd), "tests/a.yaml", "-")
		all := withoutIndex(b)
		for range 100 {
			r := randomRequest(rnd)
			indexed, plain := Decide(b, r), Decide(all, r)
			if !reflect.DeepEqual(indexed, plain) {
				t.Fatalf("%+v\nindexed %+v\nplain   %+v", r, indexed, plain)
			}
			outcomes[indexed.Outcome]++
		}
	}
	for _, o := range []access.Outcome{access.Deny, access.Hold, access.Allow} {
		if outcomes[o] < 200 {
			t.Errorf("only %d of 6000 are %s: the test says little", outcomes[o], o)
		}
	}
}

func TestIndexWithMoreGroupsThanThePrincipalHas(t *testing.T) {
	b, err := Load(manyPolicies(400))
	if err != nil {
		t.Fatal(err)
	}
	for _, txn := range []bool{false, true} {
		r := ask(as("alice", "engineers", "g3", "g7"), read("public.t5"), func(r *Request) { r.Target, r.Command.Facts.InTxn = "other", txn })
		indexed, plain := Explain(b, r), Decide(withoutIndex(b), r)
		if !reflect.DeepEqual(indexed.Verdict, plain) {
			t.Errorf("indexed %+v\nplain   %+v", indexed.Verdict, plain)
		}
		if n := len(indexed.Steps[0].Policies); n != 1+2*5 { // depth, and what the two groups have on the target
			t.Errorf("%d candidates", n)
		}
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	var m remembered[int]
	for i := range 3 * maxRemembered {
		if got := m.of(key(nil).number(int64(i)), func() int { return i }); got != i {
			t.Fatalf("%d for %d", got, i)
		}
		if got := m.of(key(nil).number(int64(i)), func() int { return -1 }); got != i {
			t.Fatalf("%d is not remembered but %d", i, got)
		}
	}
	if len(m.all) > maxRemembered {
		t.Errorf("%d are remembered", len(m.all))
	}
	if a, b := key(nil).text("a").text("bc"), key(nil).text("ab").text("c"); string(a) == string(b) {
		t.Error("two keys are alike")
	}
}

func TestCandidatesCanBeLeft(t *testing.T) {
	n := 0
	for id := range set(load1(t).rules).All() {
		if n++; id != "connect" {
			t.Errorf("first comes %s", id)
		}
		break
	}
	if n != 1 {
		t.Errorf("%d policies", n)
	}
}

func pick(rnd *rand.Rand, of ...string) string { return of[rnd.IntN(len(of))] }

func randomPolicies(rnd *rand.Rand) string {
	var text strings.Builder
	for i := range 30 {
		effect := pick(rnd, "permit", "permit", "forbid")
		hold := ""
		resource := pick(rnd, "resource", `resource in Target::"app"`, `resource in Target::"files"`, `resource == Table::"app/public.a"`,
			`resource is Table in Database::"app/app"`, `resource in Label::"env=prod"`, `resource is Table`, `resource in Database::"app/b"`)
		if effect == "forbid" {
			hold = pick(rnd, "", `@hold("prod-write") `, `@hold("prod-write") `, `@hold("audit-read") `)
			resource = pick(rnd, resource, `resource == Table::"app/public.b"`, `resource == Column::"app/public.a.x"`, `resource == Column::"app/public.a.y"`)
		}
		fmt.Fprintf(&text, "@id(\"p%d\") %s%s (%s, %s, %s) when { context.delegation.depth == %d };\n", i, hold, effect,
			pick(rnd, "principal", `principal in Group::"g1"`, `principal in Group::"g2"`, `principal in User::"alice"`, `principal == Actor::"c"`,
				`principal is Actor in Actor::"r"`, `principal is Actor`),
			pick(rnd, "action", `action == Action::"read"`, `action in [Action::"write", Action::"read"]`, `action in Action::"write"`,
				`action == Action::"unknown"`), resource, rnd.IntN(2))
	}
	return text.String()
}

// withoutIndex makes every policy a candidate for everything, except that columns stay with what names them. It remembers nothing either.
func withoutIndex(b *Bundle) *Bundle {
	all := *b
	all.memo = nil
	everywhere := byResource{}
	for _, r := range b.rules {
		at := none
		if r.resource.Type == typeColumn {
			at = r.resource
		}
		if everywhere[at] == nil {
			everywhere[at] = byPrincipal{}
		}
		everywhere[at][none] = append(everywhere[at][none], r)
	}
	all.index.byAction = map[types.String]byResource{}
	for _, a := range everyAction {
		all.index.byAction[a] = everywhere
	}
	return &all
}

func randomRequest(rnd *rand.Rand) Request {
	r := ask(as(pick(rnd, "alice", "bob"), pick(rnd, "g1", "g3"), pick(rnd, "g2", "g4"), "g5", "g6"))
	r.Lineage.Path = r.Lineage.Path[:1+rnd.IntN(2)]
	r.Approved = [][]string{nil, {"prod-write"}, {"prod-write", "audit-read"}}[rnd.IntN(3)]
	r.Command.State.Database = pick(rnd, "app", "b", "")
	r.Target = access.TargetName(pick(rnd, "app", "app", "files"))
	for range 1 + rnd.IntN(2) {
		touch(access.Effect(pick(rnd, "read", "write", "write", "unknown")), access.KindTable, pick(rnd, "public.a", "public.b"), pick(rnd, "x", "y", "z"))(&r)
	}
	return r
}
