package ssh_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/sallyport/sallyport/client/endpoint/ssh"
)

func newSigner(t *testing.T) gossh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := gossh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// learning is a connection whose server's key is learnt.
type learning struct {
	net.Conn
	r io.Reader
}

func (l learning) Read(p []byte) (int, error) { return l.r.Read(p) }

// A client that believes known_hosts alone connects at the first time: the key is there before it looks. Whatever the exchange, and however the
// bytes come.
func TestLearn(t *testing.T) {
	key := newSigner(t)
	server := &gossh.ServerConfig{NoClientAuth: true}
	server.AddHostKey(key)
	for _, kex := range []string{"mlkem768x25519-sha256", "curve25519-sha256", "ecdh-sha2-nistp256", "diffie-hellman-group14-sha256"} {
		for _, slow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", kex, slow), func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				near, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				defer wg.Wait()
				defer near.Close()
				wg.Go(func() {
					far, err := l.Accept()
					if err != nil {
						return
					}
					c := *server
					c.KeyExchanges = []string{"mlkem768x25519-sha256", "curve25519-sha256", "ecdh-sha2-nistp256", "diffie-hellman-group14-sha256"}
					conn, _, _, err := gossh.NewServerConn(far, &c)
					if err == nil {
						_ = conn.Wait()
					}
					_ = far.Close()
				})
				file := filepath.Join(t.TempDir(), "known")
				r := io.Reader(near)
				if slow {
					r = iotest.OneByteReader(near)
				}
				conn := learning{near, ssh.Learn(r, func(k ssh.HostKey) error { return ssh.Remember(file, "web.sallyport", k) })}
				c, _, _, err := gossh.NewClientConn(conn, "web.sallyport:22", &gossh.ClientConfig{
					Config: gossh.Config{KeyExchanges: []string{kex}}, User: "x",
					HostKeyCallback: func(name string, addr net.Addr, k gossh.PublicKey) error {
						check, err := knownhosts.New(file)
						if err != nil {
							return err
						}
						return check(name, &net.TCPAddr{}, k)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
			})
		}
	}
}

// packet is one without encryption.
func packet(payload ...byte) []byte {
	b := []byte{0, 0, 0, byte(1 + len(payload) + 4), 4}
	return append(append(b, payload...), 0, 0, 0, 0)
}

func str(s string) string { return string([]byte{0, 0, 0, byte(len(s))}) + s }

func TestLearnPassesEverythingOn(t *testing.T) {
	blob := str("ssh-test") + "key"
	reply := packet([]byte("\x1f" + str(blob))...)
	for _, tt := range []struct {
		name, in string
		want     int
	}{
		{"reply", "SSH-2.0-x\r\n" + string(packet(20)) + string(reply) + "encrypted", 1},
		{"lines before", "hello\nthere\nSSH-2.0-x\n" + string(reply), 1},
		{"group exchange", "SSH-2.0-x\n" + string(packet([]byte("\x1f"+str("\x00\xff prime")+str("\x02"))...)) + string(packet([]byte("\x21"+str(blob))...)), 1},
		{"new keys first", "SSH-2.0-x\n" + string(packet(21)) + string(reply), 0},
		{"cut off", "SSH-2.0-x\n" + string(reply[:20]), 0},
		{"no ssh", strings.Repeat("x", 100000), 0},
		{"a packet too long", "SSH-2.0-x\n\xff\xff\xff\xff\x00\x1f" + string(reply), 0},
		{"a field too long", "SSH-2.0-x\n" + string(packet([]byte("\x1f\xff\xff\xff\xff")...)), 0},
		{"nothing", "", 0},
	} {
		for _, r := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in)), iotest.DataErrReader(strings.NewReader(tt.in))} {
			n := 0
			got, err := io.ReadAll(ssh.Learn(r, func(k ssh.HostKey) error {
				if n++; k.Algorithm != "ssh-test" {
					t.Errorf("%s: %+v", tt.name, k)
				}
				return nil
			}))
			if err != nil || string(got) != tt.in || n != tt.want {
				t.Errorf("%s: %d bytes of %d, %d keys, %v", tt.name, len(got), len(tt.in), n, err)
			}
		}
	}
	bad := errors.New("disk full")
	got, err := io.ReadAll(ssh.Learn(strings.NewReader("SSH-2.0-x\n"+string(reply)), func(ssh.HostKey) error { return bad }))
	if !errors.Is(err, bad) || bytes.Contains(got, []byte("ssh-test")) {
		t.Errorf("a key that could not be remembered was shown: %q, %v", got, err)
	}
}

func FuzzLearn(f *testing.F) {
	f.Add([]byte("SSH-2.0-x\n\x00\x00\x00\x0c\x04\x1f"), 3)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		r := iotest.OneByteReader(bytes.NewReader(in))
		got, err := io.ReadAll(ssh.Learn(r, func(ssh.HostKey) error { return nil }))
		if err != nil || !bytes.Equal(got, in) {
			t.Fatalf("%q became %q, %v", in, got, err)
		}
	})
}

func TestRemember(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known")
	if err := os.WriteFile(file, []byte("# mine\ndb.sallyport ssh-x DB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := ssh.Remember(file, "web.sallyport", ssh.HostKey{Algorithm: "ssh-x", Key: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := ssh.Remember(file, fmt.Sprintf("h%d.sallyport", i), ssh.HostKey{Algorithm: "ssh-x", Key: "K"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(file)
	text := string(b)
	if strings.Count(text, "web.sallyport ") != 8 || strings.Count(text, " K\n") != 20 || !strings.Contains(text, "# mine\n") || !strings.Contains(text, "db.sallyport ssh-x DB\n") {
		t.Errorf("the file says\n%s", text)
	}
	name, key, _ := strings.Cut(strings.SplitN(text, "\n", 2)[0], " ssh-x ")
	if err := ssh.Remember(file, name, ssh.HostKey{Algorithm: "ssh-x", Key: key}); err != nil {
		t.Error(err)
	}
	if after, _ := os.Stat(file); !os.SameFile(before, after) {
		t.Error("a key that was known already was written")
	}
	if err := ssh.Remember(file, "* ", ssh.HostKey{}); err == nil {
		t.Error("a pattern was remembered")
	}
}
