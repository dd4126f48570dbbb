package tunnel

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// script is a connection whose reads give what they are told, and whose writes are counted.
type script struct {
	net.Conn
	data   []byte
	most   int // bytes one read gives
	reads  int
	writes [][]byte
	fail   error
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.most)], s.data)
	s.data = s.data[n:]
	s.reads++
	return n, nil
}

func (s *script) Write(b []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	s.writes = append(s.writes, bytes.Clone(b))
	return len(b), nil
}

// TestWide: nothing is lost or turned round however reads fall, a busy connection is read in large pieces, and no buffer is kept.
func TestWide(t *testing.T) {
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	for _, c := range []struct{ most, piece, maxReads int }{
		{1 << 20, 16 << 10, 30}, // busy: 64 KiB a read
		{100, 16 << 10, 1 << 20},
		{1 << 20, 1, 30},
		{wideSize - 1, 17000, 40},
		{17000, 17000, 70},
	} {
		s := &script{data: data, most: c.most}
		w := newWide(s)
		var got bytes.Buffer
		b := make([]byte, c.piece)
		for {
			n, err := w.Read(b)
			got.Write(b[:n])
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got.Bytes(), data) || s.reads > c.maxReads || w.buf != nil {
			t.Errorf("%+v: %d bytes in %d reads", c, got.Len(), s.reads)
		}
	}
}

// records is a stand-in for the TLS above: it writes each 16 KiB apart.
type records struct{ to io.Writer }

func (r records) Write(b []byte) (int, error) {
	for i := 0; i < len(b); i += maxPlain {
		if _, err := r.to.Write(b[i:min(len(b), i+maxPlain)]); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func TestJoiner(t *testing.T) {
	for _, c := range []struct{ size, writes int }{{0, 1}, {10, 1}, {maxPlain, 1}, {maxPlain + 1, 1}, {maxJoined, 1}, {maxJoined + 1, 2}, {5 * maxJoined, 5}} {
		s := &script{}
		j := &joiner{to: s}
		data := make([]byte, c.size)
		_, _ = rand.Read(data)
		n, err := j.write(records{j}, data)
		if c.size == 0 {
			c.writes = 0 // the stand-in has nothing to say
		}
		if n != c.size || err != nil || len(s.writes) != c.writes || !bytes.Equal(bytes.Join(s.writes, nil), data) || j.joined != nil {
			t.Errorf("%d bytes: %d (%v) in %d writes", c.size, n, err, len(s.writes))
		}
	}
}

// TestJoinerFails: a long write whose end did not leave is an error, and nothing follows it.
func TestJoinerFails(t *testing.T) {
	broken := errors.New("broken")
	s := &script{fail: broken}
	j := &joiner{to: s}
	if n, err := j.write(records{j}, make([]byte, maxJoined)); n != 0 || !errors.Is(err, broken) {
		t.Errorf("got %d, %v", n, err)
	}
	s.fail = nil
	if _, err := j.Write([]byte("x")); !errors.Is(err, broken) || len(s.writes) != 0 {
		t.Errorf("something followed: %v", err)
	}
}

// TestJoinerTogether: long and short writes from several goroutines stay whole.
func TestJoinerTogether(t *testing.T) {
	var got bytes.Buffer
	j := &joiner{to: &got}
	var above sync.Mutex // as crypto/tls's own
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				b := bytes.Repeat([]byte{byte('a' + i)}, 1+i*5000)
				_, _ = j.write(writer(func(b []byte) (int, error) {
					above.Lock()
					defer above.Unlock()
					return records{j}.Write(b)
				}), b)
			}
		})
	}
	wg.Wait()
	counts := map[byte]int{}
	for _, b := range got.Bytes() {
		counts[b]++
	}
	for i := range 8 {
		if n := counts[byte('a'+i)]; n != 50*(1+i*5000) {
			t.Errorf("writer %d: %d bytes", i, n)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
