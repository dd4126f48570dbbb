package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Duplex is a connection that can end its two directions apart.
type Duplex interface {
	net.Conn
	CloseWrite() error
}

// Copied is what a splice carried, in bytes.
type Copied struct{ AtoB, BtoA int64 }

// bufferSize is the most one read takes: two chunks from a mux, one record from TLS.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Splice copies between a and b until both directions have ended, one has broken, or ctx has: an end of one is passed on as CloseWrite while
// the other goes on; an error closes both. Both are closed and no goroutine is left when it returns; nil means that both ended in order.
func Splice(ctx context.Context, a, b Duplex) (Copied, error) {
	closeBoth := sync.OnceFunc(func() {
		_ = a.Close() // the first error is the one to tell
		_ = b.Close()
	})
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()

	var c Copied
	back := make(chan error, 1)
	go func() {
		var err error
		c.BtoA, err = copyHalf(a, b)
		if err != nil {
			closeBoth()
		}
		back <- err
	}()
	var err error
	c.AtoB, err = copyHalf(b, a)
	if err != nil {
		closeBoth()
	}
	if berr := <-back; err == nil || errors.Is(err, net.ErrClosed) && berr != nil {
		err = berr // the direction that broke first says why; the other only met a closed connection
	}
	if ctx.Err() != nil {
		return c, context.Cause(ctx)
	}
	return c, err
}

func copyHalf(dst, src Duplex) (int64, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			m, werr := dst.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, fmt.Errorf("write: %w", werr)
			}
		}
		if errors.Is(err, io.EOF) {
			if err := dst.CloseWrite(); err != nil {
				return total, fmt.Errorf("close write: %w", err)
			}
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("read: %w", err)
		}
	}
}
