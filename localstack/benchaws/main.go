// Command benchaws measures the functions and prints tables: under a runtime host on this machine, or in an AWS account, in which it leaves
// nothing behind but keys that AWS deletes after a week. It refuses to print a figure that it did not take.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/localstack/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "benchaws:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	out    io.Writer
	dir    string
	calls  int
	starts int
	agents int
	memory int
}

func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) (err error) {
	b := &bench{out: out}
	flags := flag.NewFlagSet("benchaws", flag.ContinueOnError)
	endpoint := flags.String("endpoint", "", `where to measure: "aws" is the account of the environment's credentials, a URL a local AWS, nothing this machine alone`)
	flags.IntVar(&b.calls, "calls", 2000, "calls of one command, one after the other (a tenth of that in an account)")
	flags.IntVar(&b.starts, "starts", 30, "cold starts (a third of that in an account)")
	flags.IntVar(&b.agents, "agents", 100, "agents at once (a fifth of that in an account)")
	flags.IntVar(&b.memory, "memory", 1024, "MB of the function in an account, as the template has it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || b.calls < 10 || b.starts < 3 || b.agents < 1 {
		return errors.New("want -calls from 10, -starts from 3, -agents from 1, and nothing else")
	}
	if b.dir, err = os.MkdirTemp("", "benchaws"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.say("Machine: %s; %s\n", machine(), time.Now().UTC().Format(time.DateOnly))
	switch *endpoint {
	case "":
		return b.here(ctx)
	case "aws":
		return b.account(ctx, getenv, "arm64")
	}
	local, err := measure.Local(*endpoint)
	if err != nil {
		return err
	}
	return b.account(ctx, local, map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH])
}

func (b *bench) say(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format+"\n", args...) }

// row is a line of a table with two columns.
func (b *bench) row(what string, format string, args ...any) {
	b.say("| %s | %s |", what, fmt.Sprintf(format, args...))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func machine() string {
	name := runtime.GOARCH
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(cpu), "\n") {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				name = strings.TrimSpace(v)
				break
			}
		}
	}
	load := ""
	if l, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = "; load " + strings.Join(strings.Fields(string(l))[:3], " ")
	}
	return fmt.Sprintf("%d × %s, %s/%s%s", runtime.NumCPU(), name, runtime.GOOS, runtime.GOARCH, load)
}

// build makes a function's binary as `make dist` does.
func (b *bench) build(ctx context.Context, function, arch string) (string, error) {
	root, err := root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(b.dir, arch, function, "bootstrap")
	if err := os.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", out, "./functions/"+function+"/lambda") // #nosec: names of our own directories
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s for %s: %w: %s", function, arch, err, text)
	}
	return out, nil
}

func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("not inside the repository")
}
