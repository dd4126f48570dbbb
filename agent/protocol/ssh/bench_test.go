package ssh

import (
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// direct is a client of the server itself, with what the room speaks.
func direct(b *testing.B, addr, user, key string) *ssh.Client {
	b.Helper()
	signer, err := ssh.ParsePrivateKey([]byte(key))
	if err != nil {
		b.Fatal(err)
	}
	c, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{Config: crypto(), User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // on loopback, in a benchmark
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func benchmarkExec(b *testing.B, c *ssh.Client) {
	for b.Loop() {
		s, err := c.NewSession()
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Run("true"); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkBulk(b *testing.B, c *ssh.Client) {
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		s, err := c.NewSession()
		if err != nil {
			b.Fatal(err)
		}
		out, err := s.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Start("head -c 67108864 /dev/zero"); err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, out); n != size || err != nil {
			b.Fatal(n, err)
		}
		if err := s.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDirect, BenchmarkBare and BenchmarkRoom are to be read side by side: the server itself, a proxy that only joins two connections of the
// same library, and the room with a broker that answers at once.
func BenchmarkDirect(b *testing.B) {
	srv := server(b)
	c := direct(b, srv.Addr, srv.User, srv.Key)
	b.Run("exec", func(b *testing.B) { benchmarkExec(b, c) })
	b.Run("bulk", func(b *testing.B) { benchmarkBulk(b, c) })
}

func BenchmarkBare(b *testing.B) {
	srv := server(b)
	c := bare(b, direct(b, srv.Addr, srv.User, srv.Key))
	b.Run("exec", func(b *testing.B) { benchmarkExec(b, c) })
	b.Run("bulk", func(b *testing.B) { benchmarkBulk(b, c) })
}

func BenchmarkRoom(b *testing.B) {
	h := open(b, server(b))
	c := h.dial()
	b.Run("exec", func(b *testing.B) { benchmarkExec(b, c) })
	b.Run("bulk", func(b *testing.B) { benchmarkBulk(b, c) })
}

func bare(b *testing.B, target *ssh.Client) *ssh.Client {
	b.Helper()
	signer, err := New(Config{}).signer("bare")
	if err != nil {
		b.Fatal(err)
	}
	cfg := &ssh.ServerConfig{Config: crypto(), NoClientAuth: true}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		_, channels, reqs, err := ssh.NewServerConn(raw, cfg)
		if err != nil {
			return
		}
		wg.Go(func() { ssh.DiscardRequests(reqs) })
		for nc := range channels {
			wg.Go(func() { join(nc, target) })
		}
	})
	c, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{Config: crypto(), User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // as in direct
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close(); _ = l.Close(); wg.Wait() })
	return c
}

// join is all that a bare proxy does for a channel.
func join(nc ssh.NewChannel, target *ssh.Client) {
	far, farReqs, err := target.OpenChannel("session", nil)
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "")
		return
	}
	near, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	var copied, wg sync.WaitGroup
	started := make(chan struct{}) // an end of input that overtakes the command would have the server wait for ever, and an end of the command its answer
	wg.Go(func() {
		first := true
		for r := range reqs {
			ok, _ := far.SendRequest(r.Type, r.WantReply, r.Payload)
			_ = r.Reply(ok, nil)
			if first && r.Type != "env" {
				first = false
				close(started)
			}
		}
		if first {
			close(started)
		}
		_ = far.Close()
	})
	wg.Go(func() { <-started; _, _ = io.Copy(far, near); _ = far.CloseWrite() })
	copied.Go(func() { _, _ = io.Copy(near, far) })
	copied.Go(func() { _, _ = io.Copy(near.Stderr(), far.Stderr()) })
	for r := range farReqs {
		<-started
		copied.Wait()
		_, _ = near.SendRequest(r.Type, false, r.Payload)
	}
	<-started
	_ = near.Close()
	wg.Wait()
}
