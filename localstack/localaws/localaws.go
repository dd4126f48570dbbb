// Package localaws starts a local AWS for tests: DynamoDB Local for the tables, MiniStack for S3 and KMS, on loopback and free ports.
// It refuses to begin without what localstack/scripts/local-aws.sh prepares, and leaves nothing running.
package localaws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/localstack/child"
)

// startLimit is how long a server may take to answer: DynamoDB Local takes 3 to 5 s on two cores that are free.
const startLimit = 60 * time.Second

// Server is one running server.
type Server struct {
	URL  string
	cmd  *exec.Cmd
	done chan struct{}
	log  *bytes.Buffer // of both outputs; read when done is closed
}

// DynamoDB starts DynamoDB Local, in memory. It listens on every address of the machine: it knows no other way. Where the script could not
// prepare it, for want of Java or Maven, the tables are MiniStack's, and every run says so.
func DynamoDB(ctx context.Context) (*Server, error) {
	if why, err := prepared("no-dynamodb"); err == nil {
		b, _ := os.ReadFile(why) // says why
		_, _ = fmt.Fprintf(os.Stderr, "WARNING: tables on MiniStack, NOT on DynamoDB Local: %s", b)
		return MiniStack(ctx)
	}
	at, err := prepared("dynamodb/lib")
	if err != nil {
		return nil, err
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, errors.New("local AWS: java is missing: install a Java runtime of version 17 or newer")
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(java, "-Xmx256m", "-Djava.library.path="+at, "-cp", filepath.Join(at, "*"), // #nosec: fixed arguments
		"com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-port", strconv.Itoa(port), "-inMemory", "-sharedDb", "-disableTelemetry")
	return start(ctx, cmd, port, "/", http.StatusBadRequest) // it answers a request without a signature so
}

// MiniStack starts MiniStack.
func MiniStack(ctx context.Context) (*Server, error) {
	at, err := prepared("ministack/bin/ministack")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(at)
	cmd.Env = append(os.Environ(), "BIND_HOST=127.0.0.1", "GATEWAY_PORT="+strconv.Itoa(port), "IOT_MTLS_ENABLED=0",
		"AWS_ENDPOINT_URL=http://127.0.0.1:"+strconv.Itoa(port))
	return start(ctx, cmd, port, "/_ministack/health", http.StatusOK)
}

// prepared finds what the script has put into build/local-aws, from anywhere in the repository.
func prepared(what string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("local AWS: not inside the repository")
		}
	}
	path := filepath.Join(dir, "build", "local-aws", what)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("local AWS: build/local-aws/%s is missing: run localstack/scripts/local-aws.sh (make test-aws does)", what)
	}
	return path, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("local AWS: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func start(ctx context.Context, cmd *exec.Cmd, port int, path string, ready int) (*Server, error) {
	s := &Server{URL: "http://127.0.0.1:" + strconv.Itoa(port), cmd: cmd, done: make(chan struct{}), log: &bytes.Buffer{}}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = s.log, s.log, child.Attr(syscall.SIGKILL)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("local AWS: %w", err)
	}
	go func() { defer close(s.done); _ = cmd.Wait() }() // what it has to say is in the log
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil); err == nil {
			if resp, err := client.Do(req); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == ready {
					tick.Stop()
					return s, nil
				}
			}
		}
		select {
		case <-tick.C:
		case <-s.done:
			return nil, fmt.Errorf("local AWS: %s ended: %s", filepath.Base(cmd.Path), tail(s.log))
		case <-ctx.Done():
			s.Close()
			return nil, fmt.Errorf("local AWS: %s does not answer: %s", filepath.Base(cmd.Path), tail(s.log))
		}
	}
}

func tail(b *bytes.Buffer) []byte {
	s := b.Bytes()
	return bytes.TrimSpace(s[max(0, len(s)-2000):])
}

// Close ends the server and waits for it.
func (s *Server) Close() {
	_ = s.cmd.Process.Kill() // it holds nothing but memory
	<-s.done
}
