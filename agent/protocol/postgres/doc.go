// Package postgres is the room for PostgreSQL: it speaks the wire protocol 3.0 and 3.2, turns each message that runs something
// into an access.Command, asks the gate, forwards what was allowed and masks what comes back.
// It refuses every message and every statement that it does not understand, settings that would change what bytes mean (encodings,
// session authorization), texts with a backslash once standard_conforming_strings may be off, COPY that would carry masked columns, function
// calls by OID unless the target's settings let them through, replication and everything that would carry a protected value past the masks.
//
// Specification: PostgreSQL manual, "Frontend/Backend Protocol" (chapter 55), versions 3.0 and 3.2; what is newer is negotiated down.
// The versions of the two legs are independent.
//
// Client leg: the stream already runs inside TLS 1.3 between endpoint and agent; a client that asks for TLS of its own, by SSLRequest or at once
// (ALPN postgresql), has it up to the room, under a certificate of this process alone. GSSENCRequest is answered N. The client proves itself by
// SCRAM-SHA-256, with channel binding where it has TLS (SCRAM-SHA-256-PLUS), where the session has a verifier: then the room has proven itself too. The names of user and database in the startup packet are
// for display; what the room logs in with is the agent's configuration.
//
// Target leg: the agent logs in with its own credential. What a target asks for is held against the settings before it is answered; the client
// is told in the room's words why a login failed, never in the target's. All connections of a session go to the host that it is on.
//
// Decisions: a simple Query message is one command, however many statements it holds. Parse is a command that only prepares. Bind is
// the command that runs, with its parameters, and covers one Execute before the next Sync; every further Execute is a new command.
// A denial outside a transaction is answered by the room alone; inside a transaction or a pipeline a constant that must fail goes to the target
// in place of the denied text, and its error is rewritten, so that both sides agree on the state of the transaction.
//
// COPY: the statement is decided, its data passes as it comes, in pieces, and leaves no copy in the evidence. COPY … TO STDOUT is refused where a
// class that it reads has to be masked. What other sessions NOTIFY passes where LISTEN was permitted; its text only where nothing is masked.
//
// Names: role and search path may be set, and are read back before the next command is looked at; temporary tables come first, as at the
// server; the text behind EXECUTE and FETCH is asked of the server. Bodies in SQL are looked into, other languages are opaque. The grammar,
// which is C, runs in processes of its own (Config.Parser).
//
// Definitions: names are resolved in a snapshot of the catalogue. Before a command runs, a question in its own transaction, behind the locks that
// Bind or a Parse of the text has taken, makes sure that what its facts rest on is as it was; where another session changed it, the target skips
// the command, and it is decided anew, once, outside a transaction, or refused by postgres.definitions-changed. In REPEATABLE READ and SERIALIZABLE
// a second connection of the room's answers, because the transaction itself cannot see the change. A target that logs every statement logs the
// questions too. Where a result's fields come from is the target's word: a description that leaves out a masked column which the command gives
// out as it is ends the session.
//
// Known limits: a command may hold 20 MiB, its text and parameters together, and a text 600,000 tokens; the large ones of all sessions
// share memory (Config.Memory), and are analysed one at a time. Functions are not locked by anything, and one may change between the room's question and its call; what a trigger or a
// key's action does to other tables is locked when it happens. Statements that must stand alone (most definitions, CALL, a message that begins a
// transaction and goes on) are asked about before they go, without locks; what follows a COMMIT or ROLLBACK in the same message rests on the
// question before it, and behind the ROLLBACK of a failed transaction on none. Of more than 128 relations the rest is seen by the look at the whole
// catalogue (Config.Fresh), as event triggers and publications are. Rows of a table that is not in the snapshot end the session. A FunctionCall message between Parse and Sync
// ends it too. While a command is held the room reads at most 64 kB ahead. A row over 2 MB is masked with stars of the value's own length, which tells that length.
package postgres
