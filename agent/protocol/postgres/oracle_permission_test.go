package postgres

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/access"
)

// The server prints a statement's tree after it put views and rules in, and with it what it will ask permission for: each relation, and the
// columns that are read, inserted and updated. Unlike pg_depend this tells reading from writing, and names neither constants nor types.

// demand is what the server asks permission for on one relation.
type demand struct {
	oid                     uint32
	perms                   int
	read, inserted, updated []int // numbers of columns; 0 is the whole row
	asOwner                 bool  // it is a view's or a rule's, asked of their owner
	nested                  bool  // it is of a statement inside a function, a trigger or the check of a foreign key
}

const (
	permInsert = 1 << iota
	permSelect
	permUpdate
	permDelete
)

// trees is what the server printed while it ran one statement.
type trees struct {
	printed  int
	demands  []demand
	excluded int      // reads of EXCLUDED, which is the row that was to be inserted and not one that is there
	calls    []uint32 // functions by number, of the statement's own tree
	casts    []uint32 // functions that it calls for the sake of types
}

var (
	demandPattern   = regexp.MustCompile(`:relid (\d+)([^{}]*?) :requiredPerms (\d+) :checkAsUser (\d+) :selectedCols \(b([^)]*)\) :insertedCols \(b([^)]*)\) :updatedCols \(b([^)]*)\)`)
	excludedPattern = regexp.MustCompile(`:relid (\d+) :inh false :relkind c`)
	callPattern     = regexp.MustCompile(`\{FUNCEXPR :funcid (\d+) :funcresulttype \d+ :funcretset \w+ :funcvariadic \w+ :funcformat (\d)`)
	operPattern     = regexp.MustCompile(`:(aggfnoid|winfnoid|opfuncid) (\d+)`)
)

// notice takes one in that holds a tree.
func (t *trees) notice(n *pgconn.Notice) {
	if n.Message != "rewritten parse tree:" {
		return
	}
	nested := n.Where != ""
	if !nested {
		t.printed++
	}
	detail := strings.ReplaceAll(n.Detail, "\n", " ") // it breaks lines anywhere
	excluded := map[string]int{}
	for _, m := range excludedPattern.FindAllStringSubmatch(detail, -1) {
		excluded[m[1]]++
	}
	for _, m := range demandPattern.FindAllStringSubmatch(detail, -1) {
		d := demand{oid: uint32(number(m[1])), perms: number(m[3]), asOwner: m[4] != "0", nested: nested,
			read: columnNumbers(m[5]), inserted: columnNumbers(m[6]), updated: columnNumbers(m[7])}
		switch {
		case d.perms == 0:
		case strings.Contains(m[2], ":relkind c"), excluded[m[1]] > 0 && d.perms == permSelect && strings.Contains(m[2], ":inh false"):
			excluded[m[1]]--
			t.excluded++
		default:
			t.demands = append(t.demands, d)
		}
	}
	if nested {
		return
	}
	for _, m := range callPattern.FindAllStringSubmatch(detail, -1) {
		if m[2] == "1" || m[2] == "2" {
			t.casts = append(t.casts, uint32(number(m[1])))
		} else {
			t.calls = append(t.calls, uint32(number(m[1])))
		}
	}
	for _, m := range operPattern.FindAllStringSubmatch(detail, -1) {
		if m[1] == "opfuncid" {
			t.casts = append(t.casts, uint32(number(m[2])))
		} else {
			t.calls = append(t.calls, uint32(number(m[2])))
		}
	}
}

func number(s string) int { n, _ := strconv.Atoi(s); return n }

// columnNumbers reads a set of columns. The server counts them from the lowest of its own columns, which is -7.
func columnNumbers(s string) (out []int) {
	for f := range strings.FieldsSeq(s) {
		out = append(out, number(f)-7)
	}
	return out
}

// demanded says whether the server asked for the relation at all, or for that column of it, for the sake of the statement itself.
func (t *trees) demanded(oid uint32, column int) bool {
	return slices.ContainsFunc(t.demands, func(d demand) bool {
		return !d.nested && d.oid == oid && (column <= 0 || slices.Contains(d.read, column) || slices.Contains(d.inserted, column) || slices.Contains(d.updated, column))
	})
}

// touchesFamily says whether the server asked for the relation or what it is part of.
func (t *trees) touchesFamily(r *relation) bool {
	up, _ := r.family(false)
	return slices.ContainsFunc(t.demands, func(d demand) bool {
		return slices.ContainsFunc(append(up, r), func(m *relation) bool { return m.oid == d.oid })
	})
}

// permissions compares what the server asks permission for with the facts.
func (o *oracle) permissions(sql string, c access.Command, opaque bool, t *trees) {
	for _, d := range t.demands {
		if d.nested && opaque {
			o.forgive("inside a function that the facts call opaque")
			continue
		}
		r := o.cat.byOID[d.oid]
		switch {
		case r == nil && d.nested:
			o.forgive("a table that the statement makes for itself")
			continue
		case r == nil && d.oid >= 16384:
			o.unsoundRow(sql, fmt.Sprintf("the server asks for relation %d, which the catalogue lacks", d.oid), c)
			continue
		case r == nil:
			continue
		case r.system() && d.asOwner && readsSystemView(c):
			o.forgive("behind one of the server's own views")
			continue
		case d.nested && (c.Verb == "COMMIT" || c.Verb == "SET CONSTRAINTS"):
			o.forgive("put off until COMMIT, and decided with the statement that put it off")
			continue
		case d.nested && r.system() && readableSystem(r.relName):
			o.forgive("definitions that a function of the server's own looks up")
			continue
		case d.nested && covers(c, r, "", access.Define):
			o.forgive("the check of the rows of a table whose definition changes")
			continue
		case d.nested && o.checked(c, r):
			o.forgive("the check of a foreign key")
			continue
		}
		o.demand(sql, c, r, d)
	}
	for i, oid := range append(slices.Clone(t.calls), t.casts...) {
		if i >= len(t.calls) && oid < 16384 {
			continue // the server's own operators and casts only compute
		}
		f := o.functionName(oid)
		name := strings.TrimPrefix(f, "pg_catalog.")
		switch {
		case f == "", slices.Contains(c.Facts.Functions, f), name != f && slices.Contains(c.Facts.Functions, name), harmless(name) && name != f, strings.HasPrefix(f, "information_schema."):
		case f == "pg_catalog.set_config" && slices.Contains(c.Facts.Functions, "set_config"): // of another setting, or of one that is not a constant, it is refused
			o.forgive("set_config that is decided as SET")
		case oid < 16384 && !strings.Contains(strings.ToLower(sql), name) && slices.ContainsFunc(c.Touches, func(t access.Touch) bool { return t.Effect == access.Write }):
			o.forgive("a function of the server's own in a column's default")
		case oid < 16384 && readsSystemView(c):
			o.forgive("behind one of the server's own views")
		default:
			o.unsoundRow(sql, "the server's tree calls "+f, c)
		}
	}
}

// demand compares one.
func (o *oracle) demand(sql string, c access.Command, r *relation, d demand) {
	writes := []access.Effect{access.Write, access.Define, access.Grant}
	if c.Verb == "EXPLAIN" || strings.HasPrefix(c.Verb, "CREATE ") || strings.HasPrefix(c.Verb, "PREPARE") { // it is only planned
		writes = append(writes, access.Read)
	}
	check := func(what string, columns []int, effects ...access.Effect) {
		if len(columns) == 0 {
			columns = []int{-7}
		}
		for _, n := range columns {
			name := ""
			if n == 0 {
				if !o.coversRow(c, r, effects...) {
					o.unsoundRow(sql, "the server "+what+" whole rows of "+r.display(), c)
				}
				continue
			}
			if col := r.columnNum(uint16(n)); n > 0 && col != nil {
				name = col.name
			}
			if !covers(c, r, name, effects...) {
				o.unsoundRow(sql, strings.TrimSpace("the server "+what+" "+r.display()+" "+name), c)
			}
		}
	}
	if d.perms&permSelect != 0 {
		check("reads", d.read, access.Read)
	}
	if d.perms&permInsert != 0 {
		check("inserts", d.inserted, writes...)
	}
	if d.perms&permUpdate != 0 && (len(d.updated) > 0 || !c.Facts.Locks) {
		check("updates", d.updated, writes...)
	}
	if d.perms&permDelete != 0 {
		check("deletes", nil, writes...)
	}
}

// coversRow says that facts have every column of r.
func (o *oracle) coversRow(c access.Command, r *relation, effects ...access.Effect) bool {
	for i := range r.columns {
		if !covers(c, r, r.columns[i].name, effects...) {
			return false
		}
	}
	return covers(c, r, "", effects...)
}

// forgive counts what the comparison lets pass, by reason: each is no read and no write that a decision could turn on, see facts-oracle.md.
func (o *oracle) forgive(why string) { o.forgiven[why]++ }

// writes says whether the server asked to write r or what it is part of.
func (t *trees) writes(r *relation) bool {
	up, _ := r.family(false)
	return slices.ContainsFunc(t.demands, func(d demand) bool {
		return d.perms&(permInsert|permUpdate|permDelete) != 0 && slices.ContainsFunc(append(up, r), func(m *relation) bool { return m.oid == d.oid })
	})
}
