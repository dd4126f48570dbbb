package postgres

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// catalogue is a snapshot of what the target's database holds, as far as facts need it. It is immutable once loaded, but for
// the cache of facts that hangs off it, and may be shared by sessions of the same target, database and role.
type catalogue struct {
	byOID     map[uint32]*relation
	byName    map[relName]*relation
	indexes   map[relName]*relation   // the tables of indexes
	keys      map[relName][]string    // the numbers of an index's columns; 0 is an expression
	usable    map[string]bool         // schemas, and whether the role may use them: the search path skips those that it may not
	functions map[string][]string     // function name → schemas other than the server's own pg_catalog that have one
	routines  map[string][]*routine   // the same functions, each with its overloads
	builtin   map[string]struct{}     // names of the server's own functions
	operators map[string][]operator   // user-made operators by name; those of extensions are not held
	casts     map[string][]string     // type name → functions of user-made casts to it
	classes   map[string]access.Class // by name
	guarded   []*relation             // with columns of some class
	unread    bool                    // a body was locked away: the next session looks again
	atLarge   []access.ClassUse       // one of each class that has columns, for what is not understood
	published map[string][]*relation  // what publications hold by name
	onDefine  []string                // functions of event triggers
	stamps    *stamps
	facts     *factCache
	parser    grammar       // nil parses in this process
	turn      chan struct{} // of texts that are large; nil: no others are looked at
}

type relName struct{ schema, name string }

type operator struct{ schema, function string }

// relation is anything that a FROM may name.
type relation struct {
	oid uint32
	relName
	kind      byte // pg_class.relkind
	columns   []column
	parents   []*relation // direct; partitions and inheritance
	children  []*relation
	bases     []viewBase // what a view's or materialised view's query reads
	viewCalls []string   // functions a view calls that are not on the allow-list
	rules     bool       // rewrite rules other than a view's own
	// What its rules name, whatever they do with it, and what runs by itself: functions that did not come with the server.
	ruleTouches []*relation
	ruleCalls   []string
	writeCalls  []string    // defaults, checks, index expressions
	policyCalls []string    // row security
	policyReads []*relation // what row security looks at
	triggers    []trigger
	references  []reference // foreign keys that point here
	refersTo    []*relation // where its own point
	server      string      // of a foreign table
	generated   []generated
	clear       bool // of a view: what it reads of classes shows in columns of its own and nowhere else; see lineage
}

type column struct {
	num      uint16
	name     string
	typ      string   // as SQL writes it
	category byte     // pg_type.typcategory
	classes  []string // in the order of the classes; empty for most
	// computed says that the classes are those of the columns that the server computes it from: nothing of such a value may show, since
	// a masker knows the value's form only where the class was given to the column itself.
	computed bool
	computes bool // the server computes its values
	missing  bool // pg_attribute holds a value of it
	unique   bool // an index holds it, or what it is part of, to be unique
}

// generated says that the server computes column num from column base of the same relation.
type generated struct{ num, base uint16 }

// routine is a function or procedure that did not come with the server. Names of functions are looked into as a whole: which overload
// it is depends on types.
type routine struct {
	relName
	language string
	body     string // of one in SQL
	ownPath  bool   // it sets path for itself
	path     string
	owner    string // of a SECURITY DEFINER
}

type viewBase struct {
	rel     *relation
	columns []uint16 // sorted; empty with whole
	whole   bool
}

// trigger is a user-made trigger that is not disabled. events has the bits of pg_trigger.tgtype.
type trigger struct {
	function string
	events   int
}

const (
	eventInsert   = 4
	eventDelete   = 8
	eventUpdate   = 16
	eventTruncate = 32
)

// reference is a foreign key of from that points at the relation that holds it; the actions are pg_constraint's letters.
type reference struct {
	from               *relation
	onDelete, onUpdate byte
}

// class says which class a result field belongs to and how it is masked. A field with no origin is an expression: the facts
// of its command spoke for it. known is false where the snapshot has no such column: the value must not be delivered.
// Where a column is in several classes the first counts, and the facts report the others as not maskable.
func (c *catalogue) class(o origin) (class, masker string, known bool) {
	if o.table == 0 {
		return "", "", true
	}
	r := c.byOID[o.table]
	if r == nil {
		return "", "", false
	}
	if o.column == 0 { // a whole row
		return "", "", false
	}
	if o.column > 1<<15 { // a system column: attribute numbers below zero
		return "", "", true
	}
	for _, col := range r.columns {
		if col.num != o.column {
			continue
		}
		if len(col.classes) == 0 {
			return "", "", true
		}
		if col.computed {
			return col.classes[0], mask.Full, true
		}
		return col.classes[0], c.classes[col.classes[0]].Mask, true
	}
	return "", "", false
}

// display is the name that touches carry: schema.table, each part quoted where it could be mistaken for something else.
func (n relName) display() string { return plainPart(n.schema) + "." + plainPart(n.name) }

func plainPart(s string) string {
	for _, r := range s {
		if r < ' ' || r == '.' || r == '"' || r == '*' || r == '/' || r == 0x7f {
			return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
		}
	}
	return s
}

func (r *relation) column(name string) *column {
	for i := range r.columns {
		if r.columns[i].name == name {
			return &r.columns[i]
		}
	}
	return nil
}

func (r *relation) columnNum(num uint16) *column {
	for i := range r.columns {
		if r.columns[i].num == num {
			return &r.columns[i]
		}
	}
	return nil
}

// system says that the relation came with the server.
func (r *relation) system() bool { return systemSchema(r.schema) }

func (r *relation) view() bool { return r.kind == 'v' || r.kind == 'm' }

// family walks the ancestors of r and, with down, all their and its descendants that a statement on r reaches: a statement on
// a parent reaches its descendants, one on a child is also one on what it is part of.
func (r *relation) family(down bool) (up, below []*relation) {
	var walk func(r *relation, next func(*relation) []*relation, into *[]*relation)
	walk = func(r *relation, next func(*relation) []*relation, into *[]*relation) {
		for _, n := range next(r) {
			if !slices.Contains(*into, n) {
				*into = append(*into, n)
				walk(n, next, into)
			}
		}
	}
	walk(r, func(r *relation) []*relation { return r.parents }, &up)
	if down {
		walk(r, func(r *relation) []*relation { return r.children }, &below)
	}
	return up, below
}

// lookup finds a relation as the server would: by schema, or along path. ok is false where there is none.
func (c *catalogue) lookup(schema, name string, path []string) (*relation, bool) {
	if r := c.byName[relName{"pg_temp", name}]; r != nil && schema == "" && !slices.Contains(path, "pg_temp") {
		return r, true // temporary tables come first, unless the path names their place
	}
	if schema != "" {
		r := c.byName[relName{schema, name}]
		return r, r != nil
	}
	for _, s := range path {
		if r := c.byName[relName{s, name}]; r != nil {
			return r, true
		}
	}
	return nil, false
}

// tableOf finds the table of an index, as lookup finds a relation.
func (c *catalogue) tableOf(schema, name string, path []string) *relation {
	if schema != "" {
		return c.indexes[relName{schema, name}]
	}
	for _, s := range append([]string{"pg_temp"}, path...) {
		if r := c.indexes[relName{s, name}]; r != nil {
			return r
		}
	}
	return nil
}

// path is the effective search path: what the setting names, "$user" replaced, schemas that are missing or that the role may
// not use left out, pg_catalog first unless it is named.
func (c *catalogue) path(st session) []string {
	var out []string
	named := false
	for _, s := range splitPath(st.searchPath) {
		if s == "$user" {
			s = st.role
		}
		if (c.usable[s] || s == "pg_temp") && !slices.Contains(out, s) {
			out = append(out, s)
		}
		named = named || s == "pg_catalog"
	}
	if !named {
		out = append([]string{"pg_catalog"}, out...)
	}
	return out
}

// creation is the schema that an unqualified CREATE goes to.
func creation(path []string, st session) string {
	explicit := splitPath(st.searchPath)
	for _, s := range path {
		if s != "pg_catalog" || slices.Contains(explicit, s) {
			return s
		}
	}
	return ""
}

// splitPath reads a search_path setting: names between commas, quoted ones as they are, others folded to lower case.
func splitPath(s string) []string {
	var out []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		var name string
		if s[0] == '"' {
			var b strings.Builder
			i := 1
			for ; i < len(s); i++ {
				if s[i] == '"' {
					if i+1 < len(s) && s[i+1] == '"' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(s[i])
			}
			name, s = b.String(), s[min(i+1, len(s)):]
		} else {
			i := strings.IndexByte(s, ',')
			if i < 0 {
				i = len(s)
			}
			name, s = strings.ToLower(strings.TrimSpace(s[:i])), s[i:]
		}
		if name != "" {
			out = append(out, name)
		}
		s = strings.TrimPrefix(strings.TrimSpace(s), ",")
	}
	return out
}

// usesTemporary says that the session has temporary relations.
func (c *catalogue) usesTemporary() bool {
	for n := range c.byName {
		if n.schema == "pg_temp" {
			return true
		}
	}
	return false
}

// parse reads a text into its tree.
func (c *catalogue) parse(text string) (*pg.ParseResult, error) {
	if c.parser == nil {
		return pg.Parse(text)
	}
	return c.parser.parse(text)
}
