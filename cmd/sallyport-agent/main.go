// Command sallyport-agent serves targets in a private network: it asks the broker about every command and holds the credentials.
// It refuses to start with a configuration that it does not understand in full.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/agent"
	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/agent/protocol/ssh"
	"github.com/sallyport/sallyport/internal/api"
)

var version = "unknown" // set by the linker

// collectAt is Go's GOGC for the agent: what lives is a few hundred kilobytes a session, so that at the usual 100 an agent at work collects dozens
// of times a second. GOGC in the environment has the last word.
const collectAt = 300

// parserWord makes this binary a process that parses SQL for an agent, and nothing else.
const parserWord = "parse-sql"

func main() {
	if len(os.Args) == 2 && os.Args[1] == parserWord {
		if err := postgres.ParserMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "sallyport-agent:", err)
			os.Exit(1)
		}
		return
	}
	if was := debug.SetGCPercent(collectAt); was != 100 {
		debug.SetGCPercent(was)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Getenv, os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sallyport-agent:", err)
		os.Exit(exit(err))
	}
}

func exit(err error) int {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Exit()
	}
	return api.ExitUsage
}

// settings read what rooms alone know of their targets.
var settings = map[string]protocol.Settings{"postgres": postgres.ReadSettings, "ssh": ssh.ReadSettings}

// rooms are the protocols that this binary speaks. What a room keeps is below stateDir.
func rooms(c *config.Config, self string) map[string]protocol.Protocol {
	return map[string]protocol.Protocol{
		"postgres": postgres.New(postgres.Config{Targets: config.SettingsOf[postgres.Settings](c), Parser: []string{self, parserWord}}),
		"ssh":      ssh.New(ssh.Config{KeyDir: filepath.Join(c.StateDir, "ssh"), Targets: config.SettingsOf[ssh.Settings](c)}),
	}
}

func command(getenv func(string) string, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{Use: "sallyport-agent", Short: "Serve targets in a private network, every command decided", Version: version,
		SilenceUsage: true, SilenceErrors: true}
	file := root.PersistentFlags().String("config", "", "the configuration file")
	sub := func(use, short string, run func(ctx context.Context, c config.Config) error) {
		root.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			if *file == "" {
				return errors.New("--config FILE is required")
			}
			c, err := config.Load(*file, settings)
			if err != nil {
				return err
			}
			return run(cmd.Context(), c)
		}})
	}
	sub("run", "serve until SIGTERM or SIGINT", func(ctx context.Context, c config.Config) error {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("own path: %w", err)
		}
		log := slog.New(slog.NewJSONHandler(stderr, nil))
		defer func() { _ = removeReady(c.ReadyFile) }() // a stale one is replaced at the next start
		return agent.Run(ctx, agent.Config{Config: c, Rooms: rooms(&c, self), Getenv: getenv, Log: log,
			Ready: func(r agent.Ready) error { return tellReady(stdout, c.ReadyFile, r) }})
	})
	sub("enroll", "trade the join token for a certificate, and nothing else", func(ctx context.Context, c config.Config) error {
		if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		id, err := agent.Enroll(ctx, c, getenv)
		if err != nil {
			return err
		}
		if err := id.Kept(); err != nil {
			return fmt.Errorf("the agent keeps the certificate that it has: %w", err)
		}
		who := id.Agent()
		_, err = fmt.Fprintf(stdout, "agent %s serves %v; its certificate is good until %s and renews itself\n", who.Name, who.Targets, who.Expires.Format("2006-01-02 15:04 MST"))
		return err
	})
	sub("check-config", "read the configuration and say what it comes to", func(ctx context.Context, c config.Config) error {
		return check(ctx, c, getenv, stdout)
	})
	return root
}

// check also fetches every credential: it tells that this works, never what it gives.
func check(ctx context.Context, c config.Config, getenv func(string) string, stdout io.Writer) error {
	known := rooms(&c, "")
	var errs []error
	for name, t := range c.Targets {
		_, err := t.Password.Fetch(ctx, getenv)
		if known[t.Protocol] == nil {
			err = errors.Join(err, fmt.Errorf("this agent has no protocol %q", t.Protocol))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("target %q: %w", name, err))
			continue
		}
		fmt.Fprintf(stdout, "target %s: %s at %s, %s, as %s, its credential can be fetched\n", name, t.Protocol, t.Address, t.Peer, t.User)
	}
	fmt.Fprintf(stdout, "floor: %d denials, %d classes masked always\n", len(c.Floor.Deny), len(c.Floor.Mask))
	return errors.Join(errs...)
}

// tellReady prints one line of JSON, and writes it to the file that whoever started the agent waits for.
func tellReady(stdout io.Writer, path string, r agent.Ready) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("ready: %w", err)
	}
	b = append(b, '\n')
	if _, err := stdout.Write(b); err != nil {
		return fmt.Errorf("ready: %w", err)
	}
	if path == "" {
		return nil
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return os.Rename(path+".new", path)
}

func removeReady(path string) error {
	if path == "" {
		return nil
	}
	return os.Remove(path)
}
