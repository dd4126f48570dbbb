package ssh

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// request reads one request of the client: what names a file is decided, what names a handle is for a file that was.
func (f *files) request(ctx context.Context, p []byte) error {
	in := &fields{b: p[1:]}
	id := in.uint32()
	if in.bad {
		return errPacket
	}
	switch kind := p[0]; kind {
	case fxpClose, fxpRead, fxpWrite, fxpFstat, fxpFsetstat, fxpReaddir:
		return f.onHandle(kind, id, in)
	case fxpRealpath:
		name := f.absolute(in.path())
		if in.bad {
			return errPacket
		}
		// By the name alone: which files there are, and where links lead, is for those to know who may read them.
		return f.send(packet(fxpName, id).uint32(1).string(name).string(name).uint32(0).bytes())
	case fxpExtended:
		return f.extended(ctx, id, in)
	default:
		return f.onPath(ctx, kind, id, in)
	}
}

func (f *files) absolute(name string) string {
	if !strings.HasPrefix(name, "/") {
		name = f.home + "/" + name
	}
	return path.Clean(name)
}

// onHandle carries a request about an open file.
func (f *files) onHandle(kind byte, id uint32, in *fields) error {
	rest := in.b
	handle := in.string(maxHandle)
	f.mu.Lock()
	file := f.handles[handle]
	f.mu.Unlock()
	if in.bad {
		return errPacket
	}
	if file == nil || (kind == fxpWrite || kind == fxpFsetstat) && !file.write {
		return f.send(status(id, fxFailure, "no such handle, or not open for this"))
	}
	o := &op{id: id, kind: kind, file: file}
	switch kind {
	case fxpRead:
		o.offset = in.uint64()
		in.uint32()
	case fxpWrite:
		offset := in.uint64()
		n := in.uint32()
		if in.bad || uint64(n) != uint64(len(in.b)) {
			return errPacket
		}
		f.mu.Lock()
		err := file.tape.add(offset, in.b)
		file.written.add(offset, in.b)
		f.mu.Unlock()
		if err != nil {
			return unrecorded(err)
		}
	case fxpClose:
		f.mu.Lock()
		delete(f.handles, handle)
		file.closed = true
		f.mu.Unlock()
	}
	if in.bad {
		return errPacket
	}
	return f.forward(o, packet(kind, 0).raw(rest))
}

// intent is one operation on names.
type intent struct {
	verb    string
	touches []access.Touch
	deletes bool
	content bool // of a file is shown
	names   []string
	whole   bool   // links are followed to the end of the first name, not only up to it
	packet  *build // with the names that were decided in place of those that were sent
}

func (i *intent) on(e access.Effect, name string) {
	i.touches = append(i.touches, access.Touch{Effect: e, Resource: access.Resource{Kind: access.KindPath, Name: name}})
}

func (i *intent) below(e access.Effect, name string) {
	i.on(e, name)
	i.on(e, strings.TrimSuffix(name, "/")+"/*")
}

// onPath decides and carries a request that names files.
func (f *files) onPath(ctx context.Context, kind byte, id uint32, in *fields) error {
	i := f.intent(ctx, kind, in)
	if in.bad {
		return errPacket
	}
	if i == nil {
		f.c.receipt(refused("SFTP", "packet "+strconv.Itoa(int(kind)), "ssh.unknown-sftp", "the room carries version 3 of sftp"))
		return f.send(status(id, fxUnsupported, "not carried"))
	}
	return f.decide(ctx, kind, id, i)
}

// link is the real name of something that may be a link itself: only what leads to it is followed.
func (f *files) link(ctx context.Context, name string) string {
	name = f.absolute(name)
	dir, base := path.Split(name)
	if real, ok := f.resolve(ctx, path.Clean(dir)); ok && base != "" {
		return path.Join(real, base)
	}
	return name
}

// real is the real name of a file: links followed, its own included.
func (f *files) real(ctx context.Context, name string) string {
	name = f.absolute(name)
	if real, ok := f.resolve(ctx, name); ok {
		return real
	}
	return f.link(ctx, name)
}

// intent reads a request on names; nil is one that the room does not know.
func (f *files) intent(ctx context.Context, kind byte, in *fields) *intent {
	i := &intent{}
	name := in.path()
	if in.bad {
		return nil
	}
	one := func(verb string, e access.Effect, name string) *intent {
		i.verb, i.names, i.packet = verb, []string{name}, packet(kind, 0).string(name).raw(in.b)
		i.whole = kind == fxpStat || kind == fxpOpendir || kind == fxpSetstat
		i.on(e, name)
		return i
	}
	switch kind {
	case fxpOpen:
		rest := in.b
		flags := in.uint32()
		in.b = rest
		name = f.real(ctx, name)
		i.verb, i.names, i.packet, i.whole = "SFTP OPEN", []string{name}, packet(kind, 0).string(name).raw(rest), true
		if i.content = flags&fxfRead != 0; i.content {
			i.on(access.Read, name)
			i.verb += " READ"
		}
		if flags&(fxfWrite|fxfAppend|fxfCreat|fxfTrunc) != 0 || flags&fxfRead == 0 {
			i.on(access.Write, name)
			i.verb += " WRITE"
		}
		if flags&^(fxfRead|fxfWrite|fxfAppend|fxfCreat|fxfTrunc|fxfExcl) != 0 {
			return nil
		}
		return i
	case fxpStat:
		return one("SFTP STAT", access.Read, f.real(ctx, name))
	case fxpLstat:
		return one("SFTP STAT", access.Read, f.link(ctx, name))
	case fxpOpendir:
		return one("SFTP LIST", access.Read, f.real(ctx, name))
	case fxpReadlink:
		return one("SFTP READLINK", access.Read, f.link(ctx, name))
	case fxpSetstat:
		return one("SFTP SETSTAT", access.Write, f.real(ctx, name))
	case fxpMkdir:
		return one("SFTP MKDIR", access.Write, f.link(ctx, name))
	case fxpRemove, fxpRmdir:
		i.deletes = true
		return one(map[byte]string{fxpRemove: "SFTP REMOVE", fxpRmdir: "SFTP RMDIR"}[kind], access.Write, f.link(ctx, name))
	case fxpRename:
		return f.rename(ctx, i, packet(kind, 0), name, in)
	case fxpSymlink:
		return f.symlink(ctx, i, packet(kind, 0), name, in)
	}
	return nil
}

func (f *files) rename(ctx context.Context, i *intent, p *build, from string, in *fields) *intent {
	to := f.link(ctx, in.path())
	from = f.link(ctx, from)
	i.verb, i.names, i.packet, i.deletes = "SFTP RENAME", []string{from, to}, p.string(from).string(to), true
	i.below(access.Read, from)
	i.below(access.Write, from)
	i.below(access.Write, to)
	return i
}

// symlink: OpenSSH has the target first, whatever the draft says (PROTOCOL, section 4.1). As with ln, a link to a file counts as reading and writing it.
func (f *files) symlink(ctx context.Context, i *intent, p *build, target string, in *fields) *intent {
	name := f.link(ctx, in.path())
	to := target
	if !strings.HasPrefix(to, "/") {
		to = path.Join(path.Dir(name), to)
	}
	to = f.real(ctx, to)
	i.verb, i.names, i.packet, i.whole = "SFTP SYMLINK", []string{to, name}, p.string(to).string(name), true
	i.below(access.Read, to)
	i.below(access.Write, to)
	i.on(access.Write, name)
	return i
}

// extended decides the extensions that are carried.
func (f *files) extended(ctx context.Context, id uint32, in *fields) error {
	kind := in.string(maxName)
	if in.bad {
		return errPacket
	}
	p := packet(fxpExtended, 0).string(kind)
	if !slices.Contains(extensions, kind) {
		f.c.receipt(refused("SFTP", "extension "+short(kind), "ssh.unknown-sftp", "of the extensions only those that were offered are carried"))
		return f.send(status(id, fxUnsupported, "not carried"))
	}
	var i *intent
	switch kind {
	case "limits@openssh.com":
		return f.forward(&op{id: id, kind: fxpExtended}, p)
	case "fsync@openssh.com":
		rest := in.b
		handle := in.string(maxHandle)
		f.mu.Lock()
		file := f.handles[handle]
		f.mu.Unlock()
		if in.bad || file == nil {
			return f.send(status(id, fxFailure, "no such handle"))
		}
		return f.forward(&op{id: id, kind: fxpExtended}, p.raw(rest))
	case "posix-rename@openssh.com":
		from := in.path()
		i = f.rename(ctx, &intent{}, p, from, in)
	case "hardlink@openssh.com":
		from := in.path()
		i = f.hardlink(ctx, p, from, in)
	}
	if in.bad || i == nil {
		return errPacket
	}
	return f.decide(ctx, fxpExtended, id, i)
}

func (f *files) hardlink(ctx context.Context, p *build, from string, in *fields) *intent {
	to := f.link(ctx, in.path())
	from = f.real(ctx, from)
	i := &intent{verb: "SFTP LINK", names: []string{from, to}, whole: true, packet: p.string(from).string(to)}
	i.on(access.Read, from)
	i.on(access.Write, from)
	i.on(access.Write, to)
	return i
}

// decide asks, and forwards or answers no: to this request only.
func (f *files) decide(ctx context.Context, kind byte, id uint32, i *intent) error {
	cmd := f.command(i)
	asked, held := time.Now(), atomic.Bool{}
	permit, err := f.c.asking(ctx, cmd, func() { held.Store(true) })
	if err != nil {
		return f.deny(id, deniedBy(err))
	}
	if (held.Load() || time.Since(asked) > fresh) && !f.unmoved(ctx, i) {
		permit.Done(access.Result{Status: access.StatusUnused})
		return f.deny(id, errMoved)
	}
	r := &run{permit: permit, started: time.Now()}
	writes := strings.HasSuffix(i.verb, " WRITE")
	tape, d := f.keep(permit, kind, i, writes)
	if d != nil {
		r.done()
		return f.deny(id, d)
	}
	if err = permit.Use(); err != nil {
		r.done()
		return f.deny(id, deniedBy(err))
	}
	o := &op{id: id, kind: kind, run: r}
	if kind == fxpOpen || kind == fxpOpendir {
		o.file = &file{run: r, write: writes, tape: tape}
	}
	return f.forward(o, i.packet)
}

// fresh is for how long a name is taken to lead where it led when it was looked at: what a reviewer looks at may lead elsewhere meanwhile.
const fresh = 5 * time.Millisecond

var errMoved = &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.moved", Retryable: true,
	Hint: "while this was decided, the name came to lead to another file: ask again for what is there now"}

// unmoved says whether an operation's names still lead where they led.
func (f *files) unmoved(ctx context.Context, i *intent) bool {
	for n, name := range i.names {
		now := f.link(ctx, name)
		if n == 0 && i.whole {
			now = f.real(ctx, name)
		}
		if now != name {
			return false
		}
	}
	return true
}

// deny answers one request with no.
func (f *files) deny(id uint32, d *access.Denied) error {
	f.c.say(refusal(d))
	return f.send(status(id, fxPermissionDenied, printable(sentence(d))))
}

// keep begins the recording of a file's content where the target or the decision wants one.
func (f *files) keep(permit *gate.Permit, kind byte, i *intent, writes bool) (*content, *access.Denied) {
	if kind != fxpOpen || !f.c.l.settings.KeepFiles && !permit.Records() {
		return nil, nil
	}
	if i.content && writes {
		return nil, &access.Denied{Code: access.CodeUnsupported, Rule: "ssh.recording", Hint: "what is read and written is kept: open the file for one of them"}
	}
	w, err := f.c.l.s.Recorder.Start(permit.Command(), protocol.File, short(path.Base(i.names[0])))
	if err != nil {
		return nil, unrecorded(err)
	}
	return &content{w: w}, nil
}

// command is what the gate is asked about an operation.
func (f *files) command(i *intent) access.Command {
	text := make([]string, 0, len(i.names)+1)
	text = append(text, i.verb)
	for _, n := range i.names {
		text = append(text, strconv.Quote(n))
	}
	cmd := access.Command{Verb: i.verb, Text: strings.Join(text, " "), Normalised: i.verb + strings.Repeat(" ?", len(i.names)), Touches: i.touches, Complete: true,
		State: access.State{Role: f.c.l.s.Login.User}, Facts: access.Facts{Statement: 1, Deletes: i.deletes}}
	cmd.Classes = f.c.l.named(i.touches)
	if i.content {
		cmd.Classes = append(cmd.Classes, f.c.l.opaque(i.names[0])...)
	}
	return cmd
}
