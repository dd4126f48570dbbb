package ssh

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/internal/access"
)

const (
	maxPending = 1024            // requests on their way: OpenSSH's client has 64
	maxHandles = 128             // open files: OpenSSH's server has 100
	homeWait   = 3 * time.Second // for the host to say where its user starts
	askWait    = 10 * time.Second
)

// extensions that are carried (OpenSSH PROTOCOL, section 4). Others are not offered.
var extensions = []string{"posix-rename@openssh.com", "hardlink@openssh.com", "fsync@openssh.com", "limits@openssh.com"}

// files is one sftp session.
type files struct {
	c    *channel
	host ssh.Channel
	home string

	leaving atomic.Bool // the client has no more requests
	out     sync.Mutex  // one packet after the other to the client
	mu      sync.Mutex
	next    uint32
	pending map[uint32]*op
	handles map[string]*file
}

// op is a request on its way to the host.
type op struct {
	id      uint32 // the client's
	kind    byte
	run     *run
	file    *file
	offset  uint64
	private chan []byte // takes the answer to a question of the room's own
}

// file is what a handle stands for.
type file struct {
	run           *run
	write         bool
	tape          *content // nil: it is not kept
	read, written stream
	asked         int  // requests about it that are not answered
	closed, ended bool // the client has closed it; its record is written
}

// stream counts and hashes content that goes one way.
type stream struct {
	bytes  int64
	next   uint64
	broken bool // not from the beginning to the end: there is no one hash
	sum    hash.Hash
}

func (s *stream) add(offset uint64, b []byte) {
	s.bytes += int64(len(b))
	if s.broken = s.broken || offset != s.next; s.broken {
		return
	}
	if s.sum == nil {
		s.sum = sha256.New()
	}
	s.sum.Write(b)
	s.next += uint64(len(b))
}

func (s *stream) tag(word string) string {
	switch {
	case s.bytes == 0:
		return ""
	case s.broken:
		return fmt.Sprintf(" %s %d", word, s.bytes)
	}
	return fmt.Sprintf(" %s %d sha256:%s", word, s.bytes, hex.EncodeToString(s.sum.Sum(nil)))
}

// answered notes that a request about a file has its answer. What was asked before the file was closed may be answered behind that, and is in the
// record as well.
func (f *file) answered() {
	if f.asked--; f.closed && f.asked == 0 {
		f.end(access.StatusOK)
	}
}

func (f *file) end(s access.Status) {
	if f.ended {
		return
	}
	f.ended = true
	f.run.result.Status = s
	f.run.result.Tag = strings.TrimSpace("closed" + f.read.tag("read") + f.written.tag("wrote"))
	f.run.bytes.Store(f.read.bytes)
	f.run.taped(f.tape.close())
	f.run.done()
}

// sftp decides whether there is sftp at all, and then each operation.
func (c *channel) sftp(ctx context.Context) {
	const text = "subsystem sftp"
	start := access.Command{Verb: "SFTP", Text: text, Normalised: text, Complete: true, State: access.State{Role: c.l.s.Login.User},
		Touches: []access.Touch{{Effect: access.Execute, Resource: access.Resource{Kind: access.KindProgram, Name: "sftp-server"}}}}
	permit, err := c.ask(ctx, start)
	if err != nil {
		c.deny(deniedBy(err))
		return
	}
	r := &run{permit: permit, started: time.Now()}
	defer r.done()
	f := &files{c: c, home: c.l.home(), pending: map[uint32]*op{}, handles: map[string]*file{}}
	if f.home == "" {
		f.home = "/"
	}
	if err = permit.Use(); err == nil {
		f.host, err = c.l.openSFTP()
	}
	if err != nil {
		c.deny(orRefused(err))
		return
	}
	r.result.Status = access.StatusOK
	err = f.serve(ctx)
	f.close()
	if ctx.Err() == nil && err != nil {
		r.result.Status, r.result.Error = access.StatusError, "protocol"
		c.say("sallyport: the sftp session was ended: " + printable(err.Error()) + "\n")
	}
	if ctx.Err() == nil {
		c.exit(0)
	}
}

func orRefused(err error) *access.Denied {
	if d := (*access.Denied)(nil); errors.As(err, &d) {
		return d
	}
	return &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.host-refused", Hint: "the host does not serve sftp"}
}

// openSFTP starts the subsystem on the host, and agrees on version 3.
func (l *link) openSFTP() (ssh.Channel, error) {
	ch, reqs, err := l.host.conn.OpenChannel("session", nil)
	if err != nil {
		return nil, err
	}
	l.tail.Go(func() { ssh.DiscardRequests(reqs) })
	l.tail.Go(func() { _, _ = copyPooled(io.Discard, ch.Stderr()) }) // the host's own words are not the client's
	late := time.AfterFunc(homeWait, func() { _ = ch.Close() })
	defer late.Stop()
	err = func() error {
		ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(&struct{ Name string }{"sftp"}))
		if err != nil || !ok {
			return errors.Join(errors.New("the host has no sftp"), err)
		}
		if _, err := ch.Write([]byte{0, 0, 0, 5, fxpInit, 0, 0, 0, 3}); err != nil {
			return err
		}
		p, err := readPacket(ch, nil)
		if err != nil {
			return err
		}
		f := fields{b: p[1:]}
		if p[0] != fxpVersion || f.uint32() != 3 || f.bad {
			return errPacket
		}
		return nil
	}()
	if err != nil {
		_ = ch.Close()
		return nil, err
	}
	return ch, nil
}

// askHome asks the host where its user starts; empty where it does not tell.
func (l *link) askHome() string {
	ch, err := l.openSFTP()
	if err != nil {
		return ""
	}
	defer ch.Close() //nolint:errcheck // it has served its purpose
	late := time.AfterFunc(homeWait, func() { _ = ch.Close() })
	defer late.Stop()
	if _, err := ch.Write(packet(fxpRealpath, 1).string(".").bytes()); err != nil {
		return ""
	}
	p, err := readPacket(ch, nil)
	if err != nil {
		return ""
	}
	name, _ := realName(p)
	return name
}

// realName is the answer to realpath.
func realName(p []byte) (string, bool) {
	if len(p) == 0 || p[0] != fxpName {
		return "", false
	}
	f := fields{b: p[1:]}
	f.uint32() // id
	n := f.uint32()
	name := f.path()
	if f.bad || n != 1 || !strings.HasPrefix(name, "/") || printable(name) != name {
		return "", false
	}
	return name, true
}

// serve takes requests until the client has no more.
func (f *files) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), errGone) {
			f.c.leave(farewell(ctx))
		}
		_ = f.c.client.Close() // it hears no more
		_ = f.host.Close()
	})
	defer stop()
	p, err := readPacket(f.c.client, nil)
	if err != nil {
		return ended(err)
	}
	if v := (&fields{b: p[1:]}); p[0] != fxpInit || v.uint32() < 3 || v.bad {
		return errors.New("the client does not speak version 3")
	}
	hello := &build{[]byte{0, 0, 0, 0, fxpVersion, 0, 0, 0, 3}}
	for _, e := range extensions {
		hello.string(e).string("1")
	}
	if err := f.send(hello.bytes()); err != nil {
		return err
	}
	back := make(chan error, 1)
	go func() {
		err := f.answers()
		if !f.leaving.Load() {
			_ = f.c.client.Close() // the client waits for answers that never come
		}
		back <- err
	}()
	buf := make([]byte, 0, 34<<10)
	for err == nil {
		if p, err = readPacket(f.c.client, buf); err == nil {
			buf = p
			err = f.request(ctx, p)
		}
	}
	f.leaving.Store(true)
	_ = f.host.Close()
	if hostErr := <-back; hostErr != nil && ended(err) == nil {
		return hostErr
	}
	return ended(err)
}

// ended makes the orderly end of a stream no error.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (f *files) send(p []byte) error {
	f.out.Lock()
	defer f.out.Unlock()
	_, err := f.c.client.Write(p)
	return err
}

// answers takes what the host says, and gives each answer to whom it is for.
func (f *files) answers() error {
	buf := make([]byte, 0, 34<<10)
	for {
		p, err := readPacket(f.host, buf)
		if err != nil {
			return ended(err)
		}
		buf = p
		if err := f.answer(p); err != nil {
			return err
		}
	}
}

func (f *files) answer(p []byte) error {
	in := fields{b: p[1:]}
	id := in.uint32()
	f.mu.Lock()
	o := f.pending[id]
	delete(f.pending, id)
	f.mu.Unlock()
	if o == nil || in.bad {
		return errors.New("the host answers what was not asked")
	}
	if o.private != nil {
		o.private <- append([]byte(nil), p...)
		return nil
	}
	if err := f.note(o, p[0], &in); err != nil {
		return err
	}
	out := &build{append(make([]byte, 0, len(p)+4), 0, 0, 0, 0, p[0])}
	out.uint32(o.id)
	if p[0] == fxpStatus { // the host's own words may name what is not the client's
		code := fields{b: p[5:]}
		return f.send(status(o.id, code.uint32(), ""))
	}
	return f.send(out.raw(p[5:]).bytes())
}

// note keeps what an answer means for the record.
func (f *files) note(o *op, kind byte, in *fields) error {
	code := uint32(fxOK)
	if kind == fxpStatus {
		code = (&fields{b: in.b}).uint32()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.run == nil && o.file != nil {
		defer o.file.answered()
	}
	switch {
	case o.kind == fxpOpen || o.kind == fxpOpendir:
		if kind == fxpHandle {
			h := fields{b: in.b}
			name := h.string(maxHandle)
			if h.bad || f.handles[name] != nil || len(f.handles) >= maxHandles {
				return errors.New("the host gives a handle that cannot be")
			}
			f.handles[name] = o.file
			return nil
		}
		o.run.fail(code)
	case o.kind == fxpRead && kind == fxpData && o.file != nil:
		d := fields{b: in.b}
		n := d.uint32()
		if d.bad || uint64(n) > uint64(len(d.b)) {
			return errPacket
		}
		if err := o.file.tape.add(o.offset, d.b[:n]); err != nil {
			return unrecorded(err)
		}
		o.file.read.add(o.offset, d.b[:n])
	case o.run != nil && code != fxOK:
		o.run.fail(code)
	case o.run != nil:
		o.run.result.Status = access.StatusOK
		o.run.done()
	}
	return nil
}

// fail is the end of an operation that the host did not do.
func (r *run) fail(code uint32) {
	r.result.Status, r.result.Error = access.StatusError, fmt.Sprintf("sftp %d", code)
	r.done()
}

// forward sends a request to the host under an id of the room's own.
func (f *files) forward(o *op, p *build) error {
	f.mu.Lock()
	if len(f.pending) >= maxPending {
		f.mu.Unlock()
		return fmt.Errorf("more than %d requests on their way", maxPending)
	}
	f.next++
	id := f.next
	f.pending[id] = o
	if o.run == nil && o.file != nil {
		o.file.asked++
	}
	f.mu.Unlock()
	b := p.bytes()
	b[5], b[6], b[7], b[8] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
	_, err := f.host.Write(b)
	return err
}

// resolve asks the host which file a path really is: links followed.
func (f *files) resolve(ctx context.Context, name string) (string, bool) {
	o := &op{private: make(chan []byte, 1)}
	if f.forward(o, packet(fxpRealpath, 0).string(name)) != nil {
		return "", false
	}
	late := time.NewTimer(askWait)
	defer late.Stop()
	select {
	case p := <-o.private:
		return realName(p)
	case <-ctx.Done():
	case <-late.C:
	}
	return "", false
}

// close reports what the client left open.
func (f *files) close() {
	_ = f.host.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.handles {
		h.end(access.StatusCancelled)
	}
	for _, o := range f.pending {
		switch {
		case o.run != nil:
			o.run.result.Status = access.StatusLost
			o.run.done()
		case o.file != nil:
			o.file.end(access.StatusLost)
		}
	}
}
