package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/embedded"
	"github.com/sallyport/sallyport/localstack/idp"
)

func devCommand() *cobra.Command {
	var c embedded.Config
	var verbose bool
	var n notifyFlags
	cmd := &cobra.Command{
		Use:   "dev --dir DIR",
		Short: "Run the whole system on this machine, for development",
		Long: `Run broker, relay, a development identity provider and an agent on loopback, in the foreground, with all data below DIR.
DIR/dev.json (mode 0600) says where everything is once it is ready. SIGTERM or Ctrl-C stops it in order; kill -9 loses nothing
that was answered. With --aws the same handlers stand on the stores of a deployment, at a local AWS, and DIR/aws.json says which tables, buckets
and keys they are; nothing else is different. SIGUSR1 stops the broker alone and SIGUSR2 starts it again, to see that the gate closes.`,
		Example: `  sallyport dev --dir ./data --agent-config targets.yaml &
  export SALLYPORT_URL=$(jq -r .broker data/dev.json)
  sallyport dev id-token --dir ./data --user alice --group engineers | sallyport login --id-token-file -
  sallyport psql app -- -c 'select 1'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Dir == "" {
				return api.Because(api.ErrBadRequest, "say where data may lie, for example --dir ./data", "--dir is missing")
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			if c.AgentConfig != "" && c.AgentBinary == "" {
				bin, err := beside("sallyport-agent")
				if err != nil {
					return err
				}
				c.AgentBinary = bin
			}
			c.Getenv = os.Getenv
			if err := n.read(&c.Notify); err != nil {
				return err
			}
			return runDev(cmd.Context(), c, cmd)
		},
	}
	cmd.Flags().StringVar(&c.Dir, "dir", "", "where data lies; made where missing")
	cmd.Flags().StringVar(&c.Listen, "listen", "127.0.0.1:0", "the broker's address, loopback only; port 0 takes a free one and keeps it over restarts")
	cmd.Flags().StringVar(&c.AgentConfig, "agent-config", "", "YAML with the agent's targets; without it no agent runs")
	cmd.Flags().StringVar(&c.PolicyDir, "policy", "", "policy directory (default: the pack guarded-postgres)")
	cmd.Flags().StringVar(&c.AgentBinary, "agent-binary", "", "sallyport-agent (default: beside this program, then PATH)")
	cmd.Flags().StringVar(&c.AWS, "aws", "", "keep everything in DynamoDB, S3 and KMS of a local AWS at this URL, as a deployment does; loopback only")
	cmd.Flags().StringVar(&c.AWSTables, "aws-tables", "", "another local AWS for the tables alone, such as DynamoDB Local (default: the one of --aws)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	n.flags(cmd, &c.Notify)
	cmd.AddCommand(devIDTokenCommand())
	return cmd
}

// collectAt is Go's GOGC for a broker and relay in one process: what lives is about ten megabytes, so that at the usual 100 a broker
// at work collects dozens of times a second. GOGC in the environment has the last word.
const collectAt = 300

func runDev(ctx context.Context, c embedded.Config, cmd *cobra.Command) error {
	if was := debug.SetGCPercent(collectAt); was != 100 {
		debug.SetGCPercent(was)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	usr := make(chan os.Signal, 1)
	signal.Notify(usr, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(usr)
	outage := make(chan bool)
	c.Outage = outage
	ended := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case s := <-usr:
				select {
				case outage <- s == syscall.SIGUSR1:
				case <-ended:
					return
				}
			case <-ended:
				return
			}
		}
	}()
	started := time.Now()
	c.Ready = func(d embedded.DevFile) {
		w := cmd.OutOrStdout()
		_, _ = fmt.Fprintf(w, "ready after %d ms\n  SALLYPORT_URL=%s\n  console  %s\n  data     %s\n", time.Since(started).Milliseconds(), d.Broker, d.Console, c.Dir)
		if len(d.Targets) == 0 {
			_, _ = fmt.Fprintln(w, "  no agent: name targets with --agent-config")
		}
	}
	err := embedded.Run(ctx, c)
	close(ended)
	<-forwarded
	return err
}

// beside finds a program of ours next to this one, or in PATH.
func beside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), name); isFile(p) {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", api.Because(api.ErrNotFound, "build it with `make build`, or name it with --agent-binary", "%s is neither beside sallyport nor in PATH", name)
	}
	return p, nil
}

func isFile(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

func devIDTokenCommand() *cobra.Command {
	var where, user string
	var groups []string
	cmd := &cobra.Command{
		Use:     "id-token --dir DIR --user NAME [--group G]…",
		Short:   "Print an ID token of the development provider, so that scripts can log in",
		Example: "  sallyport dev id-token --dir ./data --user alice --group engineers | sallyport login --id-token-file -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if where == "" || user == "" {
				return api.Because(api.ErrBadRequest, "see sallyport dev id-token --help", "--dir and --user are required")
			}
			d, err := embedded.ReadDevFile(where)
			if err != nil {
				return err
			}
			raw, err := idp.Mint(filepath.Join(where, "idp"), idp.TokenRequest{Issuer: d.Issuer, ClientID: embedded.CLIClient, User: user, Groups: groups, Now: time.Now()})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), raw)
			return err
		},
	}
	cmd.Flags().StringVar(&where, "dir", "", "the directory that `sallyport dev` was given")
	cmd.Flags().StringVar(&user, "user", "", "the principal's name")
	cmd.Flags().StringArrayVar(&groups, "group", nil, "a group of the principal; may be given more than once")
	return cmd
}
