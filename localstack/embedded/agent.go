package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/functions/enroll"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/localstack/child"
)

// agentName is the one agent of an embedded system.
const agentName access.AgentName = "dev"

// agentFiles are below DIR/agent.
type agentFiles struct{ dir, config, join, ready, log string }

func agentFilesIn(dir string) agentFiles {
	d := filepath.Join(dir, "agent")
	return agentFiles{dir: d, config: filepath.Join(d, "agent.yaml"), join: filepath.Join(d, "join-token"),
		ready: filepath.Join(d, "ready"), log: filepath.Join(d, "agent.log")}
}

// agentTargets reads the names of the targets out of the user's file. The agent itself checks the rest of it, strictly.
func agentTargets(path string) ([]access.TargetName, map[string]any, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("agent configuration: %w", err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(b, &all); err != nil {
		return nil, nil, fmt.Errorf("agent configuration %s: %w", path, err)
	}
	targets, ok := all["targets"].(map[string]any)
	if !ok || len(targets) == 0 {
		return nil, nil, fmt.Errorf("agent configuration %s: no targets", path)
	}
	var names []access.TargetName
	for name := range targets {
		if err := access.CheckName("target", name); err != nil {
			return nil, nil, fmt.Errorf("agent configuration %s: %w", path, err)
		}
		names = append(names, access.TargetName(name))
	}
	return names, all, nil
}

// startAgent writes the agent's configuration (the user's file, plus where this broker is), gives it a join token and
// starts it. It returns once the agent serves its targets on the relay.
func (r *runner) startAgent(ctx context.Context) error {
	f := agentFilesIn(r.c.Dir)
	names, config, err := agentTargets(r.c.AgentConfig)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	// Files that the user's configuration names are looked for where that file lies.
	if _, ok := config["base_dir"]; !ok {
		abs, err := filepath.Abs(filepath.Dir(r.c.AgentConfig))
		if err != nil {
			return err
		}
		config["base_dir"] = abs
	}
	config["broker"], config["state_dir"], config["ready_file"] = r.brokerURL(), f.dir, f.ready
	config["join_token"] = map[string]any{"file": f.join}
	b, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("agent configuration: %w", err)
	}
	if err := writeFile(f.config, b); err != nil {
		return fmt.Errorf("agent configuration: %w", err)
	}
	if err := r.joinToken(ctx, f, names); err != nil {
		return err
	}
	if err := os.Remove(f.ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return r.spawnAgent(ctx, f)
}

func (r *runner) joinToken(ctx context.Context, f agentFiles, names []access.TargetName) error {
	j, err := enroll.NewJoinToken(ctx, r.broker.items, agentName, names, time.Now())
	if err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	return writeFile(f.join, []byte(j.JoinToken))
}

// agentReadyLimit is how long the agent may take to enrol and to reach the relay.
const agentReadyLimit = 20 * time.Second

func (r *runner) spawnAgent(ctx context.Context, f agentFiles) error {
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	cmd := exec.Command(r.c.AgentBinary, "run", "--config", f.config)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, child.Attr(syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", r.c.AgentBinary, err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }() // its log says how it ended
	r.agent, r.agentDone = cmd.Process, done
	deadline := time.After(agentReadyLimit)
	for {
		if _, err := os.Stat(f.ready); err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("the agent ended before it was ready; see %s%s", f.log, lastLines(f.log))
		case <-deadline:
			return fmt.Errorf("the agent is not ready after %s; see %s%s", agentReadyLimit, f.log, lastLines(f.log))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lastLines are what the agent said last, for the error.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return ""
	}
	return ":\n" + string(b[max(0, len(b)-2000):])
}

// agentStopLimit is how long the agent may take to end its sessions.
const agentStopLimit = 10 * time.Second

func (r *runner) stopAgent() {
	if r.agent == nil {
		return
	}
	_ = r.agent.Signal(syscall.SIGTERM) // gone already is fine
	select {
	case <-r.agentDone:
	case <-time.After(agentStopLimit):
		_ = r.agent.Kill() // it had its chance
		<-r.agentDone
	}
}
