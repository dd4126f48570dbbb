package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// Limits of what a client may keep prepared: far above what drivers' caches hold (hundreds), and flat in memory.
const (
	maxStatements = 10000
	maxPortals    = 1000
	maxKept       = 2*maxCommand + 8<<20 // bytes of their texts and parameters: one of each may be as large as a command
	maxSegment    = 2000000              // messages before one Sync: what they do to named statements and portals is kept until then
	maxPending    = 1 << 20              // bytes of a segment that wait for one question
)

// statement is what Parse made: its text is what every Bind of it is decided on.
type statement struct {
	name, text string
	masked     string // what the target has in its place, where classes are masked beneath
}

func (st *statement) size() int { return len(st.name) + len(st.text) + len(st.masked) }

// portal is a statement with its parameters. It stays bound to the statement that it was made from, whatever name is parsed anew.
type portal struct {
	name      string
	statement *statement
	params    []access.Param
	plan      plan
	run       *running // decided with Bind, for the first Execute of the same segment
	fresh     bool     // that Execute may still come
	asked     bool     // its description was asked for
	size      int

	// of the back loop
	fields    []field
	described bool
	mask      *masking
	maskFor   *expect
}

// segment is the present one.
type segment struct {
	open     bool
	status   byte // of the transaction when it began
	inTxn    bool // as far as the commands of the segment tell
	sent     bool // something of it is at the target
	unsure   bool // a command of it may change what names mean: nothing after that is understood until Sync
	renamed  bool // prepared statements or cursors may have come or gone
	whole    bool // all of it is in items, and its Sync has come
	skipping bool // denied or failed here: everything up to Sync is dropped
	items    []*item
	commands []access.Command
	bytes    int // of items
	kept     int // of texts and parameters that effects hold
	count    int // messages so far
	effects  []effect
	names    map[string]*statement // of this segment; nil: closed in it
	portals  map[string]*portal
}

// effect is what a message does to the names at the target, once it has said so.
type effect struct {
	e      *expect
	portal bool
	name   string
	bytes  int
}

// item is one extended message that waits for the decision of its segment.
type item struct {
	tag     byte
	msg     []byte
	orig    []byte  // msg as it came
	owed    *expect // what the target owes for it
	hidden  bool    // the client has its answer
	command int     // in commands; -1 for none
	plan    plan
	relies  *reliance // of its command, prepared only or not
	made    *statement
	portal  *portal
	name    string // of Close
	ofStmt  bool   // Close, Describe
	fail    *reply // it cannot work: what the client is told
	bound   bool   // Execute: decided with its Bind
}

// extended takes one extended message into the segment.
func (f *front) extended(ctx context.Context, tag byte, msg []byte) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	if f.seg.skipping {
		return nil
	}
	it := &item{tag: tag, msg: msg, orig: msg, hidden: f.hide, command: -1}
	c := cursor{b: msg[header:]}
	switch tag {
	case 'P':
		f.parse(it, &c)
	case 'B':
		f.bind(it, &c)
	case 'E':
		f.execute(it, &c)
	default:
		f.describeOrClose(it, &c)
	}
	if c.end() != nil {
		return violated("malformed message %q", tag)
	}
	if again, err := f.upToDate(ctx, it.relying()); err != nil {
		return err
	} else if again && it.command >= 0 {
		f.anew(it)
	}
	if f.seg.count++; f.seg.count > maxSegment {
		it.fail = &reply{severity: severityError, code: stateBusy, message: "too many messages before Sync", hint: "send Sync more often"}
	}
	f.seg.items = append(f.seg.items, it)
	f.seg.bytes += len(msg)
	if it.fail != nil || it.plan.changesCatalogue || len(f.seg.commands) >= maxBatch || f.seg.bytes >= maxPending {
		return f.decide(ctx)
	}
	return nil
}

// askFor adds the item's command to the question.
func (f *front) askFor(it *item, text string, params []access.Param, prepare bool) {
	cmd, p := f.command(text, params, prepare)
	if f.seg.unsure {
		p.relies = nil // it is not understood, and what changed may be the segment's own doing
	}
	it.relies = p.relies
	it.command = len(f.seg.commands)
	if !prepare {
		it.plan = p
	}
	f.seg.commands = append(f.seg.commands, cmd)
}

// relying is what upToDate needs to know of an item.
func (it *item) relying() plan { return plan{relies: it.relies} }

// anew puts the question about an item as the new snapshot of the catalogue has it.
func (f *front) anew(it *item) {
	c := f.seg.commands[it.command]
	f.seg.commands = f.seg.commands[:it.command]
	f.askFor(it, c.Text, c.Params, c.Prepare && it.tag == 'P')
	if it.tag == 'B' {
		it.portal.plan = it.plan
	}
}

func (f *front) parse(it *item, c *cursor) {
	name, text := string(c.text()), string(c.text())
	types := int(c.uint16())
	c.take(4 * types)
	if c.bad {
		return
	}
	it.made = &statement{name: name, text: text}
	switch {
	case strings.HasPrefix(name, own), len(name) > maxSmall:
		it.fail = &reply{severity: severityError, code: stateDenied, message: "the name of a prepared statement is reserved or too long"}
		return
	case len(f.statements)+len(f.seg.names) >= maxStatements, f.holds()+len(text) > maxKept:
		it.fail = &reply{severity: severityError, code: stateBusy, message: "too many prepared statements", hint: "close those that are not used any more"}
		return
	}
	f.askFor(it, text, nil, true)
	if f.seg.names == nil {
		f.seg.names = make(map[string]*statement)
	}
	f.seg.names[name] = it.made
}

func (f *front) bind(it *item, c *cursor) {
	name, source := string(c.text()), string(c.text())
	params, ok := bindParams(c)
	if !ok {
		return
	}
	st := f.statementBy(source)
	it.portal = &portal{name: name, statement: st, params: params, size: len(it.msg)}
	switch {
	case strings.HasPrefix(name, own), len(name) > maxSmall:
		it.fail = &reply{severity: severityError, code: stateDenied, message: "the name of a portal is reserved or too long"}
		return
	case st == nil:
		it.fail = unknownStatement(source)
		return
	case len(f.portals)+len(f.seg.portals) >= maxPortals, f.holds()+len(it.msg) > maxKept:
		it.fail = &reply{severity: severityError, code: stateBusy, message: "too many portals", hint: "close those that are not used any more"}
		return
	}
	f.askFor(it, st.text, params, false)
	it.portal.plan, it.portal.fresh = it.plan, true
	if f.seg.portals == nil {
		f.seg.portals = make(map[string]*portal)
	}
	f.seg.portals[name] = it.portal
}

// bindParams reads the formats and values of Bind, and the formats of its results. Values are kept as they came, text or binary.
func bindParams(c *cursor) ([]access.Param, bool) {
	formats := int(c.uint16())
	forms := c.take(2 * formats)
	n := int(c.uint16())
	if c.bad || 4*n > len(c.b) || formats > 1 && formats != n || !knownFormats(forms) {
		c.bad = true
		return nil, false
	}
	params := make([]access.Param, n)
	for i := range params {
		size := int(int32(c.uint32()))
		if size == -1 {
			params[i].Null = true
			continue
		}
		params[i].Value = c.take(size)
	}
	results := int(c.uint16())
	if forms := c.take(2 * results); !knownFormats(forms) {
		c.bad = true
	}
	return params, !c.bad
}

// knownFormats: text and binary are all there is.
func knownFormats(forms []byte) bool {
	for i := 0; i+1 < len(forms); i += 2 {
		if forms[i] != 0 || forms[i+1] > binaryForm {
			return false
		}
	}
	return true
}

func (f *front) execute(it *item, c *cursor) {
	name := string(c.text())
	c.uint32() // the most rows: the target keeps to it
	if c.bad {
		return
	}
	p := f.portalBy(name)
	if p == nil {
		it.fail = unknownPortal(name)
		return
	}
	it.portal = p
	if p.fresh {
		it.bound, it.plan, p.fresh = true, p.plan, false
	} else {
		f.askFor(it, p.statement.text, p.params, false)
	}
	f.moves(it.plan)
	f.seg.renamed = f.seg.renamed || it.plan.renames
	f.seg.unsure = f.seg.unsure || it.plan.changesCatalogue || it.plan.mayDrift && it.plan.named
}

func (f *front) describeOrClose(it *item, c *cursor) {
	kind, name := c.byte(), string(c.text())
	if c.bad || kind != 'S' && kind != 'P' {
		c.bad = true
		return
	}
	it.name, it.ofStmt = name, kind == 'S'
	if it.tag == 'C' {
		if it.ofStmt {
			if f.seg.names == nil {
				f.seg.names = make(map[string]*statement)
			}
			f.seg.names[name] = nil
		} else {
			if f.seg.portals == nil {
				f.seg.portals = make(map[string]*portal)
			}
			f.seg.portals[name] = nil
		}
		return
	}
	if it.ofStmt {
		if it.made = f.statementBy(name); it.made == nil {
			it.fail = unknownStatement(name)
		}
		return
	}
	if it.portal = f.portalBy(name); it.portal != nil {
		return
	}
	if name == "" || strings.HasPrefix(name, own) {
		it.fail = unknownPortal(name)
		return
	}
	it.portal = &portal{name: name} // a cursor that DECLARE made is one to the target: libpq's clients ask for its columns so, and fetch by FETCH
}

func unknownStatement(name string) *reply {
	return &reply{severity: severityError, code: stateNoStatement, message: fmt.Sprintf("prepared statement %q does not exist", name)}
}

func unknownPortal(name string) *reply {
	return &reply{severity: severityError, code: stateNoPortal, message: fmt.Sprintf("portal %q does not exist", name)}
}

func (f *front) statementBy(name string) *statement {
	if st, ok := f.seg.names[name]; ok {
		return st
	}
	return f.statements[name]
}

func (f *front) portalBy(name string) *portal {
	if p, ok := f.seg.portals[name]; ok {
		return p
	}
	return f.portals[name]
}
