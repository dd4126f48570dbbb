package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/localstack/child"
	"github.com/sallyport/sallyport/localstack/pgserver"
)

// bounce starts a PgBouncer in session mode before a server, and one more whenever it has died: its suites say how often they met that.
func bounce(ctx context.Context, binary string, srv *pgserver.Server) (port int, end func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // its number is free a moment later
	if err != nil {
		return 0, nil, err
	}
	port = ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		return 0, nil, err
	}
	dir, err := os.MkdirTemp("", "sallyport-bouncer-")
	if err != nil {
		return 0, nil, err
	}
	settings := fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d user=%s password=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\n"+
		"auth_type = any\npool_mode = session\nmax_client_conn = 500\ndefault_pool_size = 200\nserver_reset_query = DISCARD ALL\n", srv.Port, srv.User, srv.Password, port)
	path := filepath.Join(dir, "pgbouncer.ini")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(settings), 0o644)); err != nil { //nolint:gosec // another user reads it; the server is thrown away
		return 0, nil, errors.Join(err, os.RemoveAll(dir))
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, binary, "-q", path)
			cmd.SysProcAttr = child.Attr(syscall.SIGKILL)
			cmd.SysProcAttr.Credential = nobody()
			if err := cmd.Run(); ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "PgBouncer ended:", err)
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	return port, func() {
		stop()
		<-done
		_ = os.RemoveAll(dir)
	}, nil
}

// nobody is who PgBouncer runs as, since it refuses to be root; nil: as this process.
func nobody() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
