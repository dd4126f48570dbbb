package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/sigv4"
)

const (
	// MaxSize is the largest credential in bytes: a database token of a cloud provider has some 2 kB.
	MaxSize = 64 << 10
	// CommandTimeout is for a program that fetches a credential, which may ask a service.
	CommandTimeout = 10 * time.Second
	// commandGrace is how long a program may keep its pipes after it was ended.
	commandGrace = time.Second
)

// Source says where a credential comes from: exactly one of its fields. It is read for every session, so that a rotated one
// takes effect at once. One line break at the end is not part of the credential.
type Source struct {
	File    string   // a path; only its owner may read it
	Env     string   // a variable of the agent's environment
	Command []string // a program and its arguments, no shell; what it prints is the credential
	RDS     RDS      // a token of the machine's AWS identity
}

// RDS says for which login to RDS or Aurora with IAM authentication a token is made.
type RDS struct {
	Region   string
	Endpoint string // HOST:PORT as AWS names it: tokens are for it alone
	User     string
}

// Check says whether exactly one source is named.
func (s Source) Check() error {
	n := 0
	for _, set := range []bool{s.File != "", s.Env != "", len(s.Command) > 0, s.RDS != RDS{}} {
		if set {
			n++
		}
	}
	if n != 1 {
		return errors.New("credential: name exactly one of file, env, command and rds_token")
	}
	return nil
}

// Fetch reads the credential. No error tells any of it, nor what a program printed.
func (s Source) Fetch(ctx context.Context, getenv func(string) string) (secret.Secret, error) {
	if err := s.Check(); err != nil {
		return secret.Secret{}, err
	}
	switch {
	case s.File != "":
		return fromFile(s.File)
	case s.Env != "":
		v := getenv(s.Env)
		if v == "" {
			return secret.Secret{}, fmt.Errorf("credential: variable %s is not set", s.Env)
		}
		return checked([]byte(v), "variable "+s.Env)
	case s.RDS != RDS{}:
		return s.RDS.token(ctx, getenv)
	}
	return fromCommand(ctx, s.Command)
}

func (r RDS) token(ctx context.Context, getenv func(string) string) (secret.Secret, error) {
	identity, err := sigv4.New(sigv4.Config{Region: r.Region, Getenv: getenv})
	if err != nil {
		return secret.Secret{}, fmt.Errorf("credential: %w", err)
	}
	token, err := identity.DatabaseToken(ctx, r.Endpoint, r.User)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("credential: %w", err)
	}
	return token, nil
}

func fromFile(path string) (secret.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("credential: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	st, err := f.Stat()
	if err != nil {
		return secret.Secret{}, fmt.Errorf("credential: %w", err)
	}
	if !st.Mode().IsRegular() {
		return secret.Secret{}, fmt.Errorf("credential: %s is not a file", path)
	}
	if open := st.Mode().Perm() & 0o077; open != 0 {
		return secret.Secret{}, fmt.Errorf("credential: others can use %s (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return secret.Secret{}, fmt.Errorf("credential: %w", err)
	}
	return checked(b, path)
}

func fromCommand(ctx context.Context, argv []string) (secret.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, CommandTimeout)
	defer cancel()
	out := &bounded{left: MaxSize + 1}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.WaitDelay = out, commandGrace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", CommandTimeout)
		}
		return secret.Secret{}, fmt.Errorf("credential: run %s: %w", argv[0], err)
	}
	return checked(out.b.Bytes(), argv[0])
}

// bounded keeps the beginning of what it is given.
type bounded struct {
	b    bytes.Buffer
	left int
}

func (w *bounded) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.b.Write(p[:n])
	return len(p), nil
}

func checked(b []byte, from string) (secret.Secret, error) {
	if len(b) > MaxSize {
		return secret.Secret{}, fmt.Errorf("credential: %s gives more than %d bytes", from, MaxSize)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return secret.Secret{}, fmt.Errorf("credential: %s gives nothing", from)
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return secret.Secret{}, fmt.Errorf("credential: %s gives a zero byte", from)
	}
	return secret.New(string(b)), nil
}
