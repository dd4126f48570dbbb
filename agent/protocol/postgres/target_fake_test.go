package postgres

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres/pgtest"
	"github.com/sallyport/sallyport/internal/secret"
)

// serveEach takes connections on loopback, each in a goroutine that has ended when the test has.
func serveEach(t *testing.T, one func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, one)
}

func serveOn(t *testing.T, ln net.Listener, one func(net.Conn)) string {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				one(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// serveTLS answers a request for TLS and goes on inside it.
func serveTLS(t *testing.T, cert tls.Certificate, one func(net.Conn)) string {
	t.Helper()
	return serveEach(t, func(c net.Conn) {
		var head [8]byte
		if _, err := io.ReadFull(c, head[:]); err != nil || binary.BigEndian.Uint32(head[4:]) != codeSSL {
			return
		}
		if _, err := c.Write([]byte{'S'}); err != nil {
			return
		}
		secured := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		if secured.Handshake() == nil {
			one(secured)
		}
	})
}

// fake is a target that says what a test wants, and keeps what the room said to it.
type fake struct {
	script func(*fake)
	conn   net.Conn
	mu     sync.Mutex
	heard  bytes.Buffer // without the startup packet
	logins int
}

func (f *fake) serve(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn = c
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 8 || n > maxStartup {
		return
	}
	if _, err := io.CopyN(io.Discard, c, int64(n)-4); err != nil {
		return
	}
	f.logins++
	f.script(f)
	_, _ = io.Copy(&f.heard, c)
}

func (f *fake) say(b ...[]byte) { _, _ = f.conn.Write(join(b...)) }

// hear reads one message.
func (f *fake) hear() []byte {
	var head [header]byte
	if _, err := io.ReadFull(f.conn, head[:]); err != nil {
		return nil
	}
	body := make([]byte, min(binary.BigEndian.Uint32(head[1:]), maxAuth)-lengthWord)
	_, _ = io.ReadFull(f.conn, body)
	f.heard.Write(head[:])
	f.heard.Write(body)
	return body
}

func asks(code uint32, more string) []byte { return appendAuthentication(nil, code, []byte(more)) }

// salted begins SCRAM, and answers the room's first message by what first makes of its nonce.
func (f *fake) salted(first func(nonce string) string) {
	f.say(asks(authSASL, mechanism+"\x00\x00"))
	_, initial, _ := strings.Cut(string(f.hear()), "n=,")
	f.say(asks(authContinue, first(attribute(initial, 'r'))))
}

var fakeSalt = ",s=" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))

func usual(nonce string) string { return "r=" + nonce + "fake" + fakeSalt + ",i=4096" }

func status(name, value string) []byte {
	b, at := frame(nil, 'S')
	return seal(appendText(appendText(b, name), value), at)
}

const notProven = "did not prove itself"

// in is all that a server says to who is in, with a cancel key of so many bytes.
func in(size int) []byte {
	key, at := frame(nil, 'K')
	return join(asks(authOK, ""), status("client_encoding", "UTF8"), status("standard_conforming_strings", "on"), status("server_version", "18.0"),
		seal(append(append(key, 0, 0, 0, 9), make([]byte, size)...), at), appendReady(nil, 'I'))
}

// What a target asks of the agent without right is refused before any proof leaves, and who did not prove itself is told nothing.
func TestTargetThatAsksTooMuch(t *testing.T) {
	proofless := func(heard string) bool { return heard == "" }
	unsigned := func(heard string) bool { return !strings.Contains(heard, ",p=") } // the first message of SCRAM holds a nonce alone
	anything := func(heard string) bool { return strings.Count(heard, "p\x00\x00") <= 2 }
	spoil := func(spoiled string) func(f *fake) {
		return func(f *fake) { f.salted(func(n string) string { return strings.ReplaceAll(spoiled, "NONCE", n) }) }
	}
	scramOnly, bound := Settings{Auth: []string{"scram-sha-256"}}, Settings{ChannelBinding: "require"}
	for _, tt := range []struct {
		name     string
		settings Settings
		secured  bool
		script   func(*fake)
		says     string
		kept     func(heard string) bool
	}{
		{"password", Settings{}, false, func(f *fake) { f.say(asks(3, "")) }, "by password, which", proofless},
		{"password in TLS, scram demanded", scramOnly, true, func(f *fake) { f.say(asks(3, "")) }, "by password, which", proofless},
		{"password in TLS, binding required", bound, true, func(f *fake) { f.say(asks(3, "")) }, "channel binding", proofless},
		{"md5", Settings{}, false, func(f *fake) { f.say(asks(5, "salt")) }, "by md5, which", proofless},
		{"md5 in TLS", Settings{}, true, func(f *fake) { f.say(asks(5, "salt")) }, "by md5, which", proofless},
		{"gss", Settings{}, true, func(f *fake) { f.say(asks(7, "")) }, "by gss, which", proofless},
		{"sspi", Settings{}, true, func(f *fake) { f.say(asks(9, "")) }, "by sspi, which", proofless},
		{"unknown", Settings{}, true, func(f *fake) { f.say(asks(99, "")) }, "by an unknown method, which", proofless},
		{"another mechanism", Settings{}, true, func(f *fake) { f.say(asks(authSASL, "OAUTHBEARER\x00\x00")) }, "does not offer SCRAM-SHA-256", proofless},
		{"no binding offered", bound, true, func(f *fake) { f.say(asks(authSASL, mechanism+"\x00\x00")) }, "channel binding", proofless},
		{"let in unasked, scram demanded", scramOnly, true, func(f *fake) { f.say(in(4)) }, "asked for no proof", proofless},
		{"let in unasked, binding required", bound, true, func(f *fake) { f.say(in(4)) }, "asked for no proof", proofless},
		{"ready without a word", Settings{}, false, func(f *fake) { f.say(appendReady(nil, 'I')) }, notProven, proofless},
		{"another nonce", Settings{}, false, spoil("r=theirs" + fakeSalt + ",i=4096"), notProven, unsigned},
		{"the same nonce", Settings{}, false, spoil("r=NONCE" + fakeSalt + ",i=4096"), notProven, unsigned},
		{"one iteration", Settings{}, false, spoil("r=NONCEx" + fakeSalt + ",i=1"), "1 iterations", unsigned},
		{"few iterations", Settings{}, true, spoil("r=NONCEx" + fakeSalt + ",i=4095"), "4095 iterations", unsigned},
		{"many iterations", Settings{}, false, spoil("r=NONCEx" + fakeSalt + ",i=1000001"), "1000001 iterations", unsigned},
		{"very many iterations", Settings{}, false, spoil("r=NONCEx" + fakeSalt + ",i=99999999999999999999999"), "99999999999999999999 iterations", unsigned},
		{"an extension", Settings{}, false, spoil("m=x,r=NONCEx" + fakeSalt + ",i=4096"), "malformed", unsigned},
		{"no salt", Settings{}, false, spoil("r=NONCEx,i=4096"), "malformed", unsigned},
		{"wrong signature", Settings{}, false, func(f *fake) {
			f.salted(usual)
			f.hear()
			f.say(asks(authFinal, "v="+base64.StdEncoding.EncodeToString(make([]byte, 32))), in(4))
		}, notProven, anything},
		{"no signature", Settings{}, false, func(f *fake) {
			f.salted(usual)
			f.hear()
			f.say(in(4))
		}, notProven, anything},
		{"password after scram", Settings{}, true, func(f *fake) {
			f.salted(usual)
			f.hear()
			f.say(asks(3, ""))
		}, "asked for the credential twice", anything},
		{"scram after scram", Settings{}, true, func(f *fake) {
			f.salted(usual)
			f.hear()
			f.salted(usual)
		}, "asked for the credential twice", anything},
		{"a message of no end", Settings{}, false, func(f *fake) { f.say(rawMessage('R', 1<<30, "")) }, "of 1073741824 bytes", proofless},
		{"a message of no length", Settings{}, false, func(f *fake) { f.say(rawMessage('R', 3, "")) }, "of 3 bytes", proofless},
		{"an empty request", Settings{}, false, func(f *fake) { f.say(rawMessage('R', 4, "")) }, "malformed", proofless},
		{"a message of another kind", Settings{}, false, func(f *fake) { f.say(appendBare(nil, '1')) }, notProven, proofless},
		{"a cancel key of 300 bytes", Settings{}, false, func(f *fake) { f.say(in(300)) }, "cancel key of 300 bytes", proofless},
		{"settings without end", Settings{}, false, func(f *fake) {
			f.say(asks(authOK, ""))
			for i := range 2 * maxLogin / 1000 {
				f.say(status("a"+strconv.Itoa(i), strings.Repeat("x", 1000)))
			}
		}, "said more than", proofless},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fake{script: tt.script}
			peer, addr := protocol.Peer{Mode: "disable"}, ""
			if tt.secured {
				ca := newAuthority(t, "fake ca")
				_, _, cert := ca.issue(t, "db.internal")
				caPEM, _ := pemOf(t, nil, ca.cert)
				peer = protocol.Peer{Mode: "verify-full", ServerName: "db.internal", CAFile: writeFile(t, filepath.Join(t.TempDir(), "ca"), caPEM)}
				addr = serveTLS(t, cert, f.serve)
			} else {
				addr = serveEach(t, f.serve)
			}
			h := withSettings(t, tt.settings, func(s *protocol.Session) {
				s.Login = protocol.Login{User: "app", Password: secret.New(legSecret), Database: "postgres", Peer: peer}
				s.Dial = dialTo(addr)
			})
			_, err := pgx.Connect(t.Context(), h.dsn(""))
			if codeOf(err) != "28000" || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the client sees %v, want 28000 %q", err, tt.says)
			}
			if err != nil && (strings.Contains(err.Error(), legSecret) || strings.Contains(err.Error(), addr)) {
				t.Errorf("the client learns too much: %v", err)
			}
			<-h.errs
			f.mu.Lock() // it has hung up
			defer f.mu.Unlock()
			heard := strings.TrimSuffix(f.heard.String(), "X\x00\x00\x00\x04")
			if f.logins != 1 || !tt.kept(heard) || strings.Contains(heard, legSecret) || strings.Contains(heard, "md5") || strings.Contains(heard, "show") {
				t.Errorf("%d logins; the fake heard %q", f.logins, heard)
			}
		})
	}
}

// A fake that says all that a server says passes where nobody demands proof: the cases above are refused for what they name.
func TestTargetThatLetsIn(t *testing.T) {
	f := &fake{script: func(f *fake) { f.say(in(4)) }}
	addr := serveEach(t, f.serve)
	h := withSettings(t, Settings{}, func(s *protocol.Session) { s.Dial = dialTo(addr) })
	c := dialRaw(t, h)
	c.write(t, startupPacket(version3, "user", "alice"))
	eventually(t, "the room's first command", func() bool {
		_ = c.conn.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.heard.Len() > 5
	})
}

// The client hears the room's words, never the target's.
func TestTargetThatTurnsAway(t *testing.T) {
	for code, want := range map[string]string{"28P01": "28000", "28000": "28000", "42501": "28000", "XX000": "28000", "": "28000",
		"53300": "53300", "57P03": "57P03", "3D000": "3D000", "22023": "22023"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			f := &fake{script: func(f *fake) {
				f.say(errorResponse("SFATAL", "VFATAL", "C"+code, "Mcanary at 192.0.2.7", "Dcanary", "Hcanary"))
			}}
			addr := serveEach(t, f.serve)
			h := withSettings(t, Settings{}, func(s *protocol.Session) { s.Dial = dialTo(addr) })
			_, err := pgx.Connect(t.Context(), h.dsn(""))
			if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) || pg.Code != want || strings.Contains(pg.Message+pg.Detail+pg.Hint, "canary") {
				t.Errorf("got %#v, want %s", pg, want)
			}
		})
	}
}

// pgconn dials once more to cancel on a login that broke, which must not happen beside the login to the next host.
func TestTargetThatBreaksBeforeAnother(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{script: func(f *fake) { f.say([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }}
	addr := serveOn(t, ln, f.serve)
	var dials atomic.Int32
	h := withSettings(t, Settings{Hosts: []Host{{Address: pgtest.Start(t).Addr}}}, func(s *protocol.Session) {
		s.Dial = func(ctx context.Context) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "unix", addr)
		}
	})
	c := h.connect("")
	var n int
	if err := c.QueryRow(t.Context(), "select 1").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	h.room.mu.Lock()
	defer h.room.mu.Unlock()
	if host := h.room.live[c.PgConn().PID()][0].key.host; host != "target1:5432" || dials.Load() != 1 {
		t.Errorf("the session's key is for %s, and the first host was dialled %d times", host, dials.Load())
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(join(asks(authSASL, mechanism+"\x00\x00"), asks(authContinue, "r=x"+fakeSalt+",i=4096"), asks(authFinal, "v=x"), in(4)), 3)
	f.Add(asks(3, ""), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		whole := &challenges{r: bytes.NewReader(b), allowed: []string{"scram-sha-256"}}
		got, err := io.ReadAll(whole)
		if err == nil && !bytes.Equal(got, b) {
			t.Fatal("a byte was held back")
		}
		parts := &challenges{r: io.MultiReader(bytes.NewReader(b[:max(0, min(cut, len(b)))]), bytes.NewReader(b[max(0, min(cut, len(b))):])), allowed: []string{"scram-sha-256"}}
		if _, again := io.ReadAll(parts); (again == nil) != (err == nil) {
			t.Fatalf("whole: %v, in parts: %v", err, again)
		}
	})
}
