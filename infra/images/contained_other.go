//go:build !linux

package main

import (
	"context"
	"errors"
)

const again = "contained"

func contained(context.Context, string, string, ...string) (string, error) {
	return "", errors.New("verify: runs on Linux alone")
}

func become([]string) error { return errors.New("verify: runs on Linux alone") }
