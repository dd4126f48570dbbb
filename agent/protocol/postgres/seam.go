package postgres

import (
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// This file is where the two halves of the room meet: the wire (serve, handshake, login, result, refuse, cancel) and the
// facts (analyse, catalogue). Facts have no sockets: what they must ask the target, they ask through session.

// origin is where a field of a RowDescription comes from; the zero table means an expression.
type origin struct {
	table  uint32 // pg_class.oid
	column uint16 // pg_attribute.attnum; system columns are negative on the wire and wrap to >= 0x8000
}

// session is the state that gives a command's bytes their meaning. The wire keeps it; analyse only reads it.
type session struct {
	database   string
	role       string
	searchPath string // as current_setting('search_path') gives it
	inTxn      bool   // a transaction block is open when the command runs
	utf8       bool   // the database's own encoding is UTF8
	loose      bool   // standard_conforming_strings may be off: what a backslash in a string means is not known
	// prepared and cursor ask the target what it has under a name, for EXECUTE and FETCH: the text of the message that made it.
	prepared, cursor func(name string) (text string, ok bool)
	// first is the client's own text behind a second one that made such a name, where the target was sent one in this session.
	first func(second string) (text string, ok bool)
}

// limits bound what analyse looks at; beyond them a command is refused, not cut.
type limits struct {
	text   int // bytes
	depth  int // nesting
	tokens int // and so statements in one message: a migration has hundreds, a script of INSERTs thousands
}

// defaultLimits: what the broker takes of text, of which no more is parsed than the grammar's process and this one have memory and time for.
var defaultLimits = limits{text: maxCommand, depth: 500, tokens: maxTokens}

// txnMove is what one statement does to the transaction block.
type txnMove uint8

const (
	txnNone  txnMove = iota
	txnBegin         // BEGIN, START TRANSACTION
	txnEnd           // COMMIT, ROLLBACK, END, ABORT without CHAIN
	txnOther         // SAVEPOINT, RELEASE, ROLLBACK TO, … AND CHAIN: the block stays open
)

// plan is what the wire must know about a command beside the question that goes to the gate.
type plan struct {
	statements int
	txn        []txnMove // of each statement that moves the transaction, in order
	// changesCatalogue asks for a new snapshot once the command has ended.
	changesCatalogue bool
	// mayDrift is true where the command can change role, search path or other state out of the wire's sight (a function that
	// is not known): the wire reads them again afterwards and ends the session where they moved.
	mayDrift bool
	// named says that what may drift was asked for by name, and is not a trigger's doing: nothing that follows before the same Sync is
	// understood. Drivers send rows for tables with triggers in pipelines; those functions are the database owner's, not the client's choice.
	named bool
	// forgets names prepared statements that are gone once it has run; forgetsAll means all of them.
	forgets    []string
	forgetsAll bool
	// moves says that role or search path change by the command's own words: the wire reads them again and goes on with what they are.
	moves bool
	// opaque says that something runs whose statements were not seen.
	opaque bool
	// loosens says that a backslash in a string may mean something else from now on.
	loosens bool
	// renames says that prepared statements or cursors come or go: what the target has under a name is not known before its Sync.
	renames bool
	// counted says that the completion's tag counts every row that the statement itself changes.
	counted bool
	// copyIn and copyOut: the target will answer with CopyInResponse or CopyOutResponse.
	copyIn, copyOut bool
	// unguards says that code which the client wrote may have done away with the room's own prepared statements.
	unguards bool
	// relies is what the facts rest on that others may change; nil for nothing.
	relies *reliance
	// listens: what other sessions send (NOTIFY) may come from now on. Without it the room drops all of it.
	listens bool
}

// What facts provides (analyse.go, catalogue.go):
//
//	loadCatalogue(run func(sql string) ([][]string, error), classes []access.Class) (*catalogue, error)
//
// takes a snapshot through run: one read-only statement at a time, every name qualified with pg_catalog (the search path is the
// client's), no parameters, every value text and not NULL (coalesce). run goes through the extended protocol, so that a reload disturbs
// neither the client's unnamed statement nor its transaction. At most 64 MiB of rows.
//
//	(*catalogue).class(o origin) (class, mask string, known bool)
//
// names the class of a result field and its masker; known is false where the table is not in the snapshot, or where the
// table has classes and the column is not in the snapshot: the wire then ends the session. o.table is never 0.
//
//	analyse(text string, params []access.Param, st session, cat *catalogue, lim limits) (access.Command, plan)
//
// is total, never panics, and is pure but for what it asks through st. It fills Verb, Text, Normalised, Params, Touches, Classes, Facts, State, Complete, Why and
// Refused; the wire sets Prepare. An empty text (or only comments) is complete and touches the database with effect read, because
// drivers ping that way. A message of several statements of which one may drift, prepares, or changes the catalogue that a later one needs
// is not complete.

// commandOf is analyse with what the wire always adds: whether the statement is only prepared.
func commandOf(text string, params []access.Param, st session, cat *catalogue, prepare bool) (access.Command, plan) {
	c, p := analyse(text, params, st, cat, defaultLimits)
	c.Prepare = prepare || c.Prepare
	return c, p
}

// detected says what a detector might find in what a command brings: policy is asked about each such class. What COPY brings is not
// looked into.
func detected(classes []access.Class, p plan) []access.ClassUse {
	var uses []access.ClassUse
	for _, c := range classes {
		if c.Detector == "" {
			continue
		}
		u := access.ClassUse{Class: c.Name, On: "result"}
		if p.copyOut {
			u.Derived, u.How = true, "in COPY, which is not looked into"
		}
		uses = append(uses, u)
	}
	return uses
}

// literal writes s as a string of SQL that means the same whatever standard_conforming_strings is.
func literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		quoted = "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
