package prototest

import (
	"context"
	"errors"
	"net"
)

// nobody is the way to a target that is not there.
func nobody(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }
