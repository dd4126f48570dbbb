package access

// ResourceKind says what a resource is; each room uses those of its protocol.
type ResourceKind string

// Kinds of databases.
const (
	KindDatabase ResourceKind = "database" // name: the database
	KindTable    ResourceKind = "table"    // name: schema.table, folded as the server folds it
	KindFunction ResourceKind = "function" // name: schema.function or function
	KindSetting  ResourceKind = "setting"  // name: the setting
	KindHost     ResourceKind = "host"     // the server's operating system (COPY … PROGRAM, pg_read_file)
)

// Kinds of hosts.
const (
	KindProgram ResourceKind = "program" // name: as it is started; without its directory where that is one of the system's
	KindPath    ResourceKind = "path"    // name: absolute and clean; DIR/* is everything below DIR
	KindAddress ResourceKind = "address" // name: host:port, a host alone, or the path of a socket
)

// Resource is what a command touches inside a target.
type Resource struct {
	Kind ResourceKind `json:"kind"`
	Name string       `json:"name"`
	// Columns that take part, sorted; empty means all of them.
	Columns []string `json:"columns,omitempty"`
}

// Touch is one effect on one resource. The same command may touch many.
type Touch struct {
	Effect   Effect   `json:"effect"`
	Resource Resource `json:"resource"`
}

// ClassUse says that values of a class of data (email, card…) take part in a command.
type ClassUse struct {
	Class string `json:"class"`
	On    string `json:"on"` // schema.table.column
	// Derived is true where the room cannot mask the class in this command: an expression, a view, COPY, a predicate…
	// A derived use of a class that is not revealed is denied, unless it is masked beneath.
	Derived bool `json:"derived,omitempty"`
	// Beneath is true of a derived use where Command.Masked masks the class beneath what is computed from it.
	Beneath bool   `json:"beneath,omitempty"`
	How     string `json:"how,omitempty"` // where it was met, in words for the refusal: "in an expression", "in WHERE"
}

// Param is one bound value of a prepared command.
type Param struct {
	Null  bool   `json:"null,omitempty"`
	Value []byte `json:"value,omitempty"`
}

// Facts are what a room learnt about a command beside its touches. All of it is context for policy.
type Facts struct {
	HasWhere  bool     `json:"has_where"`            // every UPDATE and DELETE in it has a WHERE
	Functions []string `json:"functions,omitempty"`  // names of functions called, sorted
	RowLimit  int64    `json:"row_limit,omitempty"`  // constant LIMIT; 0 = none
	InTxn     bool     `json:"in_txn"`               // a transaction block is open
	Statement int      `json:"statements,omitempty"` // statements in the message
	Locks     bool     `json:"locks,omitempty"`      // it takes row locks without writing (FOR UPDATE, FOR SHARE)
	Deletes   bool     `json:"deletes,omitempty"`    // it removes rows, at any depth (DELETE, TRUNCATE, MERGE … DELETE)
}

// State is the session state that gives a command's bytes their meaning. It is part of the digest.
type State struct {
	Database   string `json:"database,omitempty"`
	Role       string `json:"role,omitempty"`
	SearchPath string `json:"search_path,omitempty"`
	// Prepared is the text that the target keeps under the name that the command runs it by (EXECUTE, FETCH): without it the exact bytes of
	// the command do not say what runs.
	Prepared string `json:"prepared,omitempty"`
}

// Command is the unit of decision: a statement, a prepare, an exec, a request.
type Command struct {
	ID      CommandID `json:"id"`      // set by the gate
	Session SessionID `json:"session"` // set by the gate
	Seq     uint64    `json:"seq"`     // set by the gate; 1, 2, 3… in a session
	Verb    string    `json:"verb"`    // "SELECT", "UPDATE", "PREPARE": for display
	// Text is the exact bytes; Normalised is the same with literals out, safe for events.
	Text       string `json:"text"`
	Normalised string `json:"normalised"`
	// Masked, where there is one, runs in place of Text when all classes with a use that is Beneath must be masked.
	Masked  string     `json:"masked,omitempty"`
	Params  []Param    `json:"params,omitempty"`
	Touches []Touch    `json:"touches,omitempty"`
	Classes []ClassUse `json:"classes,omitempty"`
	Facts   Facts      `json:"facts"`
	State   State      `json:"state"`
	// Complete is false where the room did not understand all of it; Why says what. Incomplete commands are denied
	// unless a policy explicitly permits the effect "unknown".
	Complete bool   `json:"complete"`
	Why      string `json:"why,omitempty"`
	// Prepare says that the statement is only prepared, nothing runs: a hold counts as allow, a deny denies.
	Prepare bool `json:"prepare,omitempty"`
	// Refused is set where the agent itself (room or floor) refuses: the broker stores the entry and denies.
	Refused *Refusal `json:"refused,omitempty"`
}

// Refusal names the agent's own reason to refuse a command.
type Refusal struct {
	Rule string `json:"rule"` // "floor.deny-define", "postgres.copy-program"
	Hint string `json:"hint"`
}

// Result is how a permitted command ended, as the room saw it.
type Result struct {
	Status   Status           `json:"status"`
	Tag      string           `json:"tag,omitempty"` // the target's completion tag: "UPDATE 1"
	Rows     int64            `json:"rows"`
	Bytes    int64            `json:"bytes"` // to the client
	Masked   map[string]int64 `json:"masked,omitempty"`
	Beneath  bool             `json:"beneath,omitempty"` // Command.Masked ran, not its Text
	Error    string           `json:"error,omitempty"`   // the target's error code (SQLSTATE), never its text
	Duration int64            `json:"duration_us"`       // microseconds
}

// Status of an outcome.
type Status string

// The zero Status reads as "outcome unknown".
const (
	StatusUnknown   Status = ""
	StatusOK        Status = "ok"
	StatusError     Status = "error"     // the target answered an error
	StatusCancelled Status = "cancelled" // the client cancelled
	StatusLost      Status = "lost"      // the connection to the target or client broke
	StatusUnused    Status = "unused"    // permitted, never forwarded
)
