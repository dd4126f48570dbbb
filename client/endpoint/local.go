package endpoint

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/sallyport/sallyport/client/process"
	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
)

// Local is where programs find an endpoint.
type Local struct {
	Target   access.TargetName
	Database string // the default database, or the target's name where it has none
	Dir      string // the private directory of the socket; empty without one
	Port     int    // on 127.0.0.1; 0 without one
	Password secret.Secret
}

// Owner is the user whose programs call; nil means this process' own.
type Owner struct{ UID, GID int }

// Socket is a listening unix socket, mode 0600, alone in a directory of mode 0700.
type Socket struct {
	Listener net.Listener
	Dir      string
	Path     string
}

// maxPath is the longest path of a unix socket: sun_path of unix(7) less the final zero (104 bytes on other systems).
const maxPath = 103

// NewSocket makes the directory and the socket in it. Both belong to owner. The directory is given away last: while this process
// still works in it, nobody else can.
func NewSocket(file string, owner *Owner) (*Socket, error) {
	dir, err := os.MkdirTemp(base(runtimeDirs, owner, len(file)), "sallyport-")
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	s := &Socket{Dir: dir, Path: filepath.Join(dir, file)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Path, Net: "unix"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), os.RemoveAll(dir))
	}
	l.SetUnlinkOnClose(false) // Remove does it, without following what may stand there by then
	s.Listener = l
	err = os.Chmod(s.Path, 0o600)
	if err == nil && owner != nil {
		if err = os.Lchown(s.Path, owner.UID, owner.GID); err == nil {
			err = os.Lchown(dir, owner.UID, owner.GID)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), s.Remove())
	}
	return s, nil
}

// Remove closes the socket and removes its directory.
func (s *Socket) Remove() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// runtimeDirs holds a private directory for each user that is logged in, on systems that make them.
const runtimeDirs = "/run/user"

// base is a directory in which the owner's programs can reach the socket and in which its path is short enough. For another owner it is
// never one that this owner could change: there the new directory could be swapped for a link under our hands, which are root's,
// before it is given away. /tmp is sticky.
func base(runtimeDirs string, owner *Owner, file int) string {
	if owner != nil {
		return "/tmp"
	}
	uid := os.Geteuid()
	for _, dir := range []string{filepath.Join(runtimeDirs, strconv.Itoa(uid)), os.TempDir()} {
		if len(dir)+len("/sallyport-0123456789/")+file > maxPath {
			continue
		}
		fi, err := os.Stat(dir)
		if err != nil || !fi.IsDir() {
			continue
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && (dir == os.TempDir() || int(st.Uid) == uid) {
			return dir
		}
	}
	return "/tmp"
}

// portTries is how many ports after the wanted one are tried.
const portTries = 200

// ListenPort takes the stable port of a target on loopback, or the next free one. A target's first port is remembered; one that
// was taken only this time is not replaced.
func ListenPort(dir state.Dir, target access.TargetName) (net.Listener, int, error) {
	port, remembered, err := dir.Port(target)
	if err != nil {
		return nil, 0, err
	}
	var last error
	for range portTries {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			if !remembered {
				if err := dir.RememberPort(target, port); err != nil {
					return nil, 0, errors.Join(err, l.Close())
				}
			}
			return l, port, nil
		}
		last = err
		port = state.NextPort(port)
	}
	return nil, 0, fmt.Errorf("no free port for %s: %w", target, last)
}

// SameUser admits programs of one user on a unix socket, except those inside a `sallyport run`: these speak through their run.
func SameUser(uid int) func(net.Conn) (api.Client, error) {
	return func(c net.Conn) (api.Client, error) {
		u, ok := c.(*net.UnixConn)
		if !ok {
			return api.Client{}, refusedCaller("did not come through the socket")
		}
		p, err := process.PeerOf(u)
		if err != nil {
			return api.Client{}, refusedCaller("cannot be told from others: " + err.Error())
		}
		defer p.Close()
		if p.UID != uid {
			return api.Client{}, refusedCaller("belongs to another user")
		}
		m, err := p.Mark()
		if err != nil {
			return api.Client{}, refusedCaller("cannot be told from others: " + err.Error())
		}
		if own, err := process.Own(); err != nil || m != own {
			return api.Client{}, refusedCaller("is inside a `sallyport run`, and speaks through that run's endpoint only")
		}
		return api.Client{Program: p.Program(), PID: p.PID, UID: p.UID}, nil
	}
}

// Anybody admits whoever reaches a loopback port: the room asks for the password.
func Anybody(net.Conn) (api.Client, error) { return api.Client{UID: -1}, nil }

func refusedCaller(why string) error {
	return RefusedCaller("endpoint.caller", why, "connect as the user that opened this endpoint, outside of runs")
}

// RefusedCaller says that a process may not use an endpoint: why follows "this process".
func RefusedCaller(rule, why, hint string) error {
	return &callerError{why: why, denied: access.Denied{Code: access.CodeDenied, Rule: rule, Hint: "this process " + why + "; " + hint}}
}

type callerError struct {
	why    string
	denied access.Denied
}

func (e *callerError) Error() string { return "caller refused: " + e.why }
func (e *callerError) Unwrap() error { return &e.denied }
