//go:build !linux && !darwin

package process

import "net"

func peerUID(*net.UnixConn) (int, error) { return 0, ErrUnsupported }
