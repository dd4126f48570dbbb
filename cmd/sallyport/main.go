// Command sallyport is the client: it logs in, runs agents as actors of their own, opens local endpoints, shows what was decided,
// and with `sallyport dev` runs the whole system on one machine. It refuses to speak as a person from inside a run.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sallyport/sallyport/client/process"
)

func main() { os.Exit(start()) }

func start() int {
	// Before a key is in memory: nobody but root may look into this process from now on.
	if err := process.Protect(); err != nil {
		return report(os.Stderr, err, false)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{getenv: os.Getenv, environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	return a.main(ctx, os.Args[1:])
}
