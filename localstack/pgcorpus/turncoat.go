package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgproto3"
)

// turncoat stands between proxy and server, and is the server until it reads a number that names a hostile case: from then on the
// connection answers that case's bytes. What it does at a login is armed beforehand.
type turncoat struct {
	ln       net.Listener
	upstream string
	password string
	armed    atomic.Pointer[loginCase]
	worked   atomic.Pointer[string] // what an armed login achieved
	wg       sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
}

// loginCase speaks for the server from the startup packet on. It returns what it achieved.
type loginCase func(c net.Conn, password string) string

func openTurncoat(upstream, password string) (*turncoat, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &turncoat{ln: ln, upstream: upstream, password: password, open: map[net.Conn]bool{}}
	t.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.wg.Go(func() { t.serve(c) })
		}
	})
	return t, nil
}

func (t *turncoat) port() int { return t.ln.Addr().(*net.TCPAddr).Port }

func (t *turncoat) close() {
	_ = t.ln.Close() // ends the loop
	t.mu.Lock()
	for c := range t.open {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

func (t *turncoat) keep(c net.Conn, open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if open {
		t.open[c] = true
	} else {
		delete(t.open, c)
		_ = c.Close()
	}
}

func (t *turncoat) serve(c net.Conn) {
	t.keep(c, true)
	defer t.keep(c, false)
	if l := t.armed.Load(); l != nil {
		got := (*l)(c, t.password)
		t.worked.Store(&got)
		return
	}
	up, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", t.upstream)
	if err != nil {
		return
	}
	t.keep(up, true)
	defer t.keep(up, false)
	var back sync.WaitGroup
	var turned atomic.Bool
	back.Go(func() {
		var b [32 << 10]byte
		for {
			n, err := up.Read(b[:])
			if n > 0 && !turned.Load() {
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				if !turned.Load() {
					_ = c.Close()
				}
				return
			}
		}
	})
	defer back.Wait()
	defer func() { _ = up.Close() }()
	t.forth(c, up, &turned)
}

// forth passes on what the proxy says until it names a case.
func (t *turncoat) forth(c, up net.Conn, turned *atomic.Bool) {
	var tail []byte
	var b [32 << 10]byte
	for {
		n, err := c.Read(b[:])
		if n > 0 && !turned.Load() {
			tail = append(tail[max(0, len(tail)-16):], b[:n]...)
			if h := named(tail); h != nil {
				turned.Store(true)
				if _, err := c.Write(h.answer); err != nil || h.dies {
					return
				}
			} else if _, err := up.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hostileCase is a server that lies.
type hostileCase struct {
	number int
	masked bool // asked for a masked column, otherwise for a constant
	answer []byte
	dies   bool
	login  loginCase
}

const firstCase = 7000100

func named(b []byte) *hostileCase {
	i := bytes.Index(b, []byte("70001"))
	if i < 0 || len(b) < i+7 {
		return nil
	}
	for _, h := range hostileCases {
		if string(b[i:i+7]) == fmt.Sprint(h.number) {
			return h
		}
	}
	return nil
}

func back(msgs ...pgproto3.BackendMessage) []byte {
	var b []byte
	for _, m := range msgs {
		var err error
		if b, err = m.Encode(b); err != nil {
			panic(err) // cases are ours
		}
	}
	return b
}

func described(table uint32, column uint16, names ...string) *pgproto3.RowDescription {
	d := &pgproto3.RowDescription{}
	for _, n := range names {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(n), TableOID: table, TableAttributeNumber: column, DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1})
	}
	return d
}

func data(values ...string) *pgproto3.DataRow {
	d := &pgproto3.DataRow{}
	for _, v := range values {
		d.Values = append(d.Values, []byte(v))
	}
	return d
}

var (
	ready = &pgproto3.ReadyForQuery{TxStatus: 'I'}
	done  = &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}
	one   = described(0, 0, "a")
)

func answers(masked bool, parts ...[]byte) *hostileCase {
	return &hostileCase{masked: masked, answer: slices.Concat(parts...)}
}

func dying(parts ...[]byte) *hostileCase {
	return &hostileCase{answer: slices.Concat(parts...), dies: true}
}

// fieldsOf an error or notice, each a letter and its text.
func report(tag byte, pairs ...string) []byte {
	body := strings.Join(pairs, "\x00") + "\x00\x00"
	return frame(tag, uint32(4+len(body)), body) //nolint:gosec // small
}

var hostileCases = numbered(map[string]*hostileCase{
	"error without SQLSTATE":     answers(false, report('E', "SERROR", "M"+canaryWord), back(ready)),
	"error without fields":       answers(false, frame('E', 4, ""), frame('E', 5, "\x00"), back(ready)),
	"error unterminated":         answers(false, frame('E', 4+12, "M"+canaryWord+"x"), back(ready)),
	"error with a long SQLSTATE": answers(false, report('E', "SERROR", "C4250111"+canaryWord, "Mx"), back(ready)),
	"notice unterminated":        answers(false, frame('N', 4+11, "M"+canaryWord), back(one, data("x"), done, ready)),
	"error with a canary":        answers(true, report('E', "SERROR", "VERROR", "C22P02", "Minvalid input syntax: \""+canaryWord+"\"", "D"+canaryWord, "H"+canaryWord, "W"+canaryWord, "q"+canaryWord), back(ready)),

	"row without description":        answers(false, back(data(canaryWord), done, ready)),
	"row longer than described":      answers(false, back(one, data("x", canaryWord), done, ready)),
	"description of too many fields": answers(false, frame('T', 6, "\xff\xff"), back(data(canaryWord), done, ready)),
	"description cut short":          answers(false, frame('T', 4+2+10, "\x00\x01"+canaryWord), back(ready)),
	"length of zero":                 answers(false, frame('C', 0, ""), back(data(canaryWord), ready)),
	"length of four GiB":             answers(false, frame('C', 0xffffffff, canaryWord), back(ready)),
	"row of two GiB":                 answers(true, back(described(0, 0, "ssn")), frame('D', 0x7fffffff, "\x00\x01\x7f\xff\xff\xf0"+canaryWord)),
	"unknown message":                answers(false, frame('?', 14, canaryWord), back(one, data("x"), done, ready)),
	"authentication again":           answers(false, frame('R', 8, "\x00\x00\x00\x03"), back(one, data(canaryWord), done, ready)),
	"keys again":                     answers(false, frame('K', 4+10, canaryWord), back(done, ready)),
	"copy in":                        answers(false, frame('G', 7, "\x00\x00\x00"), back(&pgproto3.CopyData{Data: []byte(canaryWord)}, ready)),
	"copy out":                       answers(false, frame('H', 7, "\x00\x00\x00"), back(&pgproto3.CopyData{Data: []byte(canaryWord + "\n")}, &pgproto3.CopyDone{}, done, ready)),
	"both ways":                      answers(false, frame('W', 7, "\x00\x00\x00"), back(&pgproto3.CopyData{Data: []byte(canaryWord)}, ready)),
	"ready twice":                    answers(false, back(one, data("x"), done, ready, ready, one, data(canaryWord), done, ready)),
	"ready with a bad status":        answers(false, back(done), frame('Z', 5, "Q"), back(one, data(canaryWord))),
	"rows after the end":             answers(false, back(one, data("x"), done, data(canaryWord), ready)),
	"dies in a message":              dying(back(one), frame('D', 100, "\x00\x01\x00\x00\x00\x5a"+canaryWord)),

	"origin of another table":            answers(true, back(described(1259, 2, "relname"), data(canaryWord), done, ready)),
	"origin nowhere for a masked column": answers(true, back(described(0, 0, "ssn"), data(canaryWord), done, ready)),
	"origin of a harmless column":        answers(true, back(described(1262, 2, "ssn"), data(canaryWord), done, ready)),
	"extra columns":                      answers(true, back(described(0, 0, "ssn", "b"), data("x", canaryWord), done, ready)),
	"name of a harmless column":          answers(true, back(described(0, 0, "id"), data(canaryWord), done, ready)),
	"encoding changed":                   answers(false, back(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "SJIS"}, one, data(canaryWord), done, ready)),
	"strings changed":                    answers(false, back(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "off"}, one, data(canaryWord), done, ready)),
	"authorization changed":              answers(false, back(&pgproto3.ParameterStatus{Name: "session_authorization", Value: "postgres"}, one, data(canaryWord), done, ready)),
	"parameter cut short":                answers(false, frame('S', 4+10, canaryWord), back(ready)),
	"origin nowhere that exists":         answers(true, back(described(4000000000, 1, "ssn"), data(canaryWord), done, ready)),
	"parameter that carries a canary":    answers(true, back(&pgproto3.ParameterStatus{Name: "application_name", Value: canaryWord}, one, data("x"), done, ready)),
	"notice that carries a canary":       answers(true, report('N', "SNOTICE", "VNOTICE", "C00000", "M"+canaryWord, "D"+canaryWord), back(one, data("x"), done, ready)),
	"notification that carries a canary": answers(true, back(&pgproto3.NotificationResponse{PID: 1, Channel: "c", Payload: canaryWord}, one, data("x"), done, ready)),
	"completion that carries a canary":   answers(true, back(one, data("x"), &pgproto3.CommandComplete{CommandTag: []byte("SELECT " + canaryWord)}, ready)),

	"asks for the password in clear":        {login: func(c net.Conn, pw string) string { return asks(c, pw, "\x00\x00\x00\x03") }},
	"asks for MD5":                          {login: func(c net.Conn, pw string) string { return asks(c, pw, "\x00\x00\x00\x05salt") }},
	"offers only an unknown mechanism":      {login: func(c net.Conn, pw string) string { return asks(c, pw, "\x00\x00\x00\x0aSCRAM-MD5\x00\x00") }},
	"proves nothing after SCRAM":            {login: scramServer{final: ""}.serve},
	"wrong server signature":                {login: scramServer{final: "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}.serve},
	"shrinks the iterations":                {login: scramServer{iterations: 1, proof: true}.serve},
	"a nonce that does not begin with ours": {login: scramServer{nonce: "completely-other", proof: true}.serve},
	"refuses with a canary": {login: func(c net.Conn, _ string) string {
		if _, err := startupOf(c); err == nil {
			_, _ = c.Write(report('E', "SFATAL", "VFATAL", "C28000", "Mno: "+canaryWord, "D"+canaryWord))
		}
		return ""
	}},
})

func numbered(all map[string]*hostileCase) map[string]*hostileCase {
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	for i, n := range names {
		all[n].number = firstCase + i
	}
	return all
}

// startupOf reads the first packet, and says no to encryption.
func startupOf(c net.Conn) ([]byte, error) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n < 8 || n > 10000 {
			return nil, errors.New("no startup packet")
		}
		body := make([]byte, n-4)
		if _, err := io.ReadFull(c, body); err != nil {
			return nil, err
		}
		if code := binary.BigEndian.Uint32(body); code != ssl && code != gss {
			return body, nil
		}
		if _, err := c.Write([]byte("N")); err != nil {
			return nil, err
		}
	}
}

// asks demands a password in a way of its own; it works when the other side gives it.
func asks(c net.Conn, password, how string) string {
	if _, err := startupOf(c); err != nil {
		return ""
	}
	if _, err := c.Write(frame('R', uint32(4+len(how)), how)); err != nil { //nolint:gosec // small
		return ""
	}
	got := drain(c, silence)
	switch {
	case bytes.Contains(got, []byte(password)):
		return "the proxy's password, in clear"
	case bytes.Contains(got, []byte("md5")):
		return "the proxy's password, as MD5"
	}
	return ""
}

// scramServer does not know the password.
type scramServer struct {
	nonce      string // of its own, where it does not go on from the client's
	iterations int
	final      string // "" is none
	proof      bool   // it works as soon as the other side sends its proof
}

func (s scramServer) serve(c net.Conn, _ string) string {
	if _, err := startupOf(c); err != nil {
		return ""
	}
	_, _ = c.Write(frame('R', 4+4+15, "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"))
	first := drain(c, silence)
	i := bytes.Index(first, []byte("r="))
	if i < 0 {
		return ""
	}
	nonce := s.nonce
	if nonce == "" {
		nonce = string(first[i+2:]) + "more"
	}
	iterations := s.iterations
	if iterations == 0 {
		iterations = 4096
	}
	body := fmt.Sprintf("\x00\x00\x00\x0br=%s,s=c2FsdHNhbHRzYWx0c2E=,i=%d", nonce, iterations)
	_, _ = c.Write(frame('R', uint32(4+len(body)), body)) //nolint:gosec // small
	second := drain(c, silence)
	if !bytes.Contains(second, []byte("p=")) {
		return ""
	}
	if s.proof {
		return "a proof of the password that is cheap to try, or replayed"
	}
	if s.final != "" {
		body := "\x00\x00\x00\x0c" + s.final
		_, _ = c.Write(frame('R', uint32(4+len(body)), body)) //nolint:gosec // small
	}
	_, _ = c.Write(slices.Concat(frame('R', 8, "\x00\x00\x00\x00"), back(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"},
		&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"}, &pgproto3.ParameterStatus{Name: "session_authorization", Value: "app"}, ready)))
	if len(drain(c, silence)) > 5 { // more than a goodbye
		return "the proxy speaks to a server that has not proven itself"
	}
	return ""
}

// hostile has the proxy talk to a server that lies.
func (s *subject) hostile(ctx context.Context, t *turncoat, name string) (verdict, string, error) {
	h := hostileCases[name]
	if h.login != nil {
		t.worked.Store(nil)
		t.armed.Store(&h.login)
	}
	sql := fmt.Sprintf("SELECT %d", h.number)
	if h.masked {
		sql = fmt.Sprintf("SELECT ssn FROM customers WHERE id <> %d", h.number)
	}
	c, err := connect(ctx, s.dsn, nil)
	t.armed.Store(nil)
	why := ""
	if err != nil {
		if strings.Contains(plain([]byte(err.Error())), canaryWord) {
			why = "the server's words at its refusal"
		}
	} else {
		c.say([]chunk{{query(sql), 1, 0}})
		if !c.t.cut && !c.t.hung {
			c.wait = silence
			c.say([]chunk{{query("SELECT 1"), 1, 0}}) // what a server said too early is read as the answer to the next question
		}
		why = leaks(c.t)
		c.close()
	}
	if got := t.worked.Load(); h.login != nil && got != nil && *got != "" {
		why = *got
	}
	again, err2 := connect(ctx, s.dsn, nil)
	switch {
	case why != "":
		if err2 == nil {
			again.close()
		}
		return leaked, why, nil
	case err2 != nil:
		return crashed, err2.Error(), nil //nolint:nilerr // that is the verdict
	}
	defer again.close()
	if again.say(each([]string{"SELECT 1"}, 0, query)); again.t.hung || again.t.errors() > 0 {
		return crashed, "the next session: " + again.t.tags, nil
	}
	if err == nil && !c.t.cut && c.t.errors() == 0 && !c.t.hung {
		return masked, "", nil
	}
	return stopped, "", nil
}
