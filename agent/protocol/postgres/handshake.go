package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/access"
)

// startup is what a client asked for before the first command.
type startup struct {
	user     string
	database string
	settings map[string]string // for the target: name, as allowed spells it, to value
	encoding string            // of the client; empty: UTF8
	words    string            // command-line options for the server
	minor    uint16
	options  []string // _pq_.* that the room does not know
}

// startError is an error with which a connection ends before its first command.
type startError struct{ reply reply }

func (e *startError) Error() string { return "handshake: " + e.reply.message }

func refuseStart(code, hint, format string, args ...any) *startError {
	return &startError{reply{severity: severityFatal, code: code, message: fmt.Sprintf(format, args...), hint: hint}}
}

// refuseRule refuses by a rule of the room's own, with the detail that programs read.
func refuseRule(rule, hint, format string, args ...any) *startError {
	e := refuseStart(stateDenied, hint, format, args...)
	e.reply.detail = (&access.Denied{Code: access.CodeDenied, Rule: rule, Hint: hint}).Detail()
	return e
}

// greet speaks to the client up to the point where it has proven itself.
func (r *Room) greet(ctx context.Context, l *link) (*startup, error) {
	ctx, stop := context.WithTimeoutCause(ctx, handshakeWait, refuseStart(stateProtocol, "", "no complete startup within %s", handshakeWait))
	defer stop()
	code, body, err := readStartup(ctx, l.in)
	if err != nil {
		return nil, err
	}
	if code == codeCancel { // after an SSLRequest, so that TakeAside could not see it
		r.cancel(ctx, l.s.Owner, body)
		return nil, errDone
	}
	st, err := parseStartup(code, body)
	if err != nil {
		return nil, err
	}
	if want := l.s.Login.Database; want != "" {
		if st.database != "" && st.database != want {
			// The client may have named it, or the policy did, whose database is every client's default.
			return nil, refuseRule("postgres.database", fmt.Sprintf("if you chose %q, choose %q; if you chose none, %q is the policy's (targets.yaml), "+
				"and who runs Sallyport must name the same one there and in the agent's configuration", st.database, want, st.database),
				"the agent serves database %q of target %q alone, not %q", want, l.s.Target, st.database)
		}
		st.database = want
	}
	if st.database == "" {
		st.database = st.user
	}
	if v := st.negotiated(nil); len(v) > 0 {
		if err := l.out.send(v); err != nil {
			return nil, err
		}
	}
	if l.s.Verifier != nil {
		return st, scram(ctx, l.in, l.out, l.s.Verifier, st.user, l.binding)
	}
	return st, nil
}

// readStartup reads the packet that a connection begins with, once requests for encryption are dealt with.
func readStartup(ctx context.Context, in *inbox) (code uint32, body []byte, err error) {
	var head [8]byte
	if err := in.read(ctx, head[:4]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 8 || n > maxStartup {
		return 0, nil, violated("startup packet of %d bytes", n)
	}
	if err := in.read(ctx, head[4:]); err != nil {
		return 0, nil, err
	}
	if code = binary.BigEndian.Uint32(head[4:]); code == codeSSL || code == codeGSS {
		return 0, nil, violated("a request for encryption inside TLS")
	}
	body, err = in.readBody(ctx, nil, int(n)-8)
	return code, body, err
}

// allowed are the settings that a client may bring: none of them changes what its bytes mean out of the room's sight (the search path is read
// back before the first command). The value is the form that is sent on; pinned settings are checked and never sent as they came.
var allowed = []string{
	"application_name", "DateStyle", "TimeZone", "IntervalStyle", "extra_float_digits", "bytea_output", "client_min_messages",
	"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout", "geqo", "jit",
	"search_path", "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable", "work_mem",
	"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout", "client_connection_check_interval",
	"plan_cache_mode", "max_parallel_workers_per_gather", "enable_seqscan", "enable_indexscan", "enable_bitmapscan", "enable_hashjoin",
	"enable_mergejoin", "enable_nestloop",
}

// parseStartup reads a startup packet of any protocol 3.
func parseStartup(code uint32, body []byte) (*startup, error) {
	if code>>majorOf != 3 {
		return nil, refuseStart(stateUnsupported, "use protocol 3.0 or 3.2", "unsupported frontend protocol %d.%d", code>>majorOf, code&0xffff)
	}
	st := &startup{minor: uint16(code), settings: make(map[string]string)}
	c := cursor{b: body}
	for {
		name := string(c.text())
		if c.bad {
			return nil, violated("unterminated startup packet")
		}
		if name == "" {
			break
		}
		value := string(c.text())
		if c.bad || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return nil, violated("malformed startup packet")
		}
		if err := st.set(name, value); err != nil {
			return nil, err
		}
	}
	if c.end() != nil {
		return nil, violated("bytes after the end of the startup packet")
	}
	// What is named by itself counts, whatever the options say.
	named := *st
	st.settings, st.encoding = make(map[string]string), ""
	if err := st.setOptions(st.words); err != nil {
		return nil, err
	}
	maps.Copy(st.settings, named.settings)
	st.encoding = orDefault(named.encoding, st.encoding)
	if st.user == "" {
		return nil, refuseStart(stateNoAuth, "", "no PostgreSQL user name specified in startup packet")
	}
	return st, nil
}

func (st *startup) set(name, value string) error {
	lower := strings.ToLower(name)
	switch {
	case name == "user":
		st.user = value
		return nil
	case name == "database":
		st.database = value
		return nil
	case strings.HasPrefix(name, "_pq_."):
		st.options = append(st.options, name)
		return nil
	case lower == "client_encoding":
		switch {
		case isUTF8(value):
			st.encoding = "UTF8"
		case isASCII(value):
			st.encoding = "SQL_ASCII"
		default:
			return refuseRule("postgres.encoding", "set PGCLIENTENCODING=UTF8", "client_encoding %q: the room speaks UTF8 alone", value)
		}
		return nil
	case lower == "standard_conforming_strings":
		if !slices.Contains([]string{"on", "true", "yes", "1"}, strings.ToLower(value)) {
			return refuseRule("postgres.setting", "leave standard_conforming_strings on", "standard_conforming_strings is pinned to on")
		}
		return nil
	case name == "replication" && slices.Contains([]string{"false", "off", "no", "0"}, value):
		return nil
	case name == "options":
		st.words = value
		return nil
	}
	i := slices.IndexFunc(allowed, func(a string) bool { return strings.ToLower(a) == lower })
	if i < 0 {
		return refuseRule("postgres.startup-parameter", "connect without it: it would change what your statements mean or who runs them",
			"unsupported startup parameter: %q", name) // poolers' words, which drivers know
	}
	if lower == "client_min_messages" && !slices.Contains([]string{"notice", "warning", "error"}, strings.ToLower(value)) {
		return refuseRule("postgres.startup-parameter", "use notice, warning or error", "client_min_messages %q is refused", value)
	}
	if len(value) > 256 {
		return violated("startup parameter %s of %d bytes", name, len(value))
	}
	st.settings[allowed[i]] = value
	return nil
}

// setOptions reads the command-line options for the server, of which only settings are known: -c NAME=VALUE, -cNAME=VALUE and --NAME=VALUE.
func (st *startup) setOptions(s string) error {
	words, err := splitOptions(s)
	if err != nil {
		return err
	}
	for i := 0; i < len(words); i++ {
		word := words[i]
		pair, long := strings.CutPrefix(word, "--")
		if !long {
			var short bool
			if pair, short = strings.CutPrefix(word, "-c"); !short {
				return refuseRule("postgres.startup-parameter", "options may hold -c NAME=VALUE alone", "option %q is refused", word)
			}
			if pair == "" && i+1 < len(words) {
				i++
				pair = words[i]
			}
		}
		name, value, ok := strings.Cut(pair, "=")
		if long {
			name = strings.ReplaceAll(name, "-", "_")
		}
		switch name {
		case "user", "database", "options", "replication", "":
			ok = false // words of the packet, not settings
		}
		if !ok || strings.HasPrefix(name, "_pq_.") {
			return refuseRule("postgres.startup-parameter", "options may hold -c NAME=VALUE alone", "option %q is refused", word)
		}
		if err := st.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// splitOptions splits as the server does (pg_split_opts): at white space, a backslash takes what follows as it is.
func splitOptions(s string) ([]string, error) {
	var words []string
	var word []byte
	inside := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case strings.IndexByte(" \t\n\v\f\r", c) >= 0:
			if inside {
				words, word, inside = append(words, string(word)), word[:0], false
			}
			continue
		case c == '\\':
			if i++; i == len(s) {
				return nil, violated("options end in a backslash")
			}
			c = s[i]
		}
		word, inside = append(word, c), true
	}
	if inside {
		words = append(words, string(word))
	}
	return words, nil
}

// isUTF8 knows the spellings that PostgreSQL takes for UTF8.
func isUTF8(v string) bool {
	v = strings.ToLower(strings.Trim(v, "'\" "))
	return v == "utf8" || v == "utf-8" || v == "unicode" || v == "utf_8"
}

// isASCII knows the encoding in which nothing is converted: where the database's own is UTF8, a client's bytes are read and written as UTF8.
func isASCII(v string) bool {
	v = strings.ToLower(strings.Trim(v, "'\" "))
	return v == "sql_ascii" || v == "sqlascii"
}

// negotiated answers a newer minor version, or options that the room does not know (NegotiateProtocolVersion).
func (st *startup) negotiated(dst []byte) []byte {
	if st.minor <= newestMinor && len(st.options) == 0 {
		return dst
	}
	dst, at := frame(dst, 'v')
	dst = binary.BigEndian.AppendUint32(dst, version3|uint32(min(st.minor, newestMinor)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(st.options)))
	for _, o := range st.options {
		dst = appendText(dst, o)
	}
	return seal(dst, at)
}

// Refuse answers a client for which no session was opened: it reads the startup, says why, and closes.
func (r *Room) Refuse(ctx context.Context, client net.Conn, d *access.Denied) error {
	ctx, stop := context.WithTimeout(ctx, handshakeWait)
	defer stop()
	secured, _, err := r.preface(ctx, client)
	if err != nil {
		return errors.Join(fmt.Errorf("read startup of a refused client: %w", err), client.Close())
	}
	client = secured
	in, o := newInbox(), newOut(client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.pump(client, ctx.Done())
	}()
	err = refuseClient(ctx, in, o, client, d)
	_ = client.Close()
	stop()
	<-done
	return err
}

func refuseClient(ctx context.Context, in *inbox, o *out, client net.Conn, d *access.Denied) error {
	code, _, err := readStartup(ctx, in)
	if err != nil {
		return fmt.Errorf("read startup of a refused client: %w", err)
	}
	if code == codeCancel {
		return nil
	}
	rep := refusal(d)
	rep.severity = severityFatal
	if d.Code == access.CodeBusy {
		rep.code = "53300" // too_many_connections: drivers wait and try again
	}
	_ = client.SetWriteDeadline(time.Now().Add(farewellWait))
	return o.send(rep.append(nil))
}
