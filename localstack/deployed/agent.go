package deployed

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/localstack/idp"
)

// pinOf is the pin of a CA's certificate, as a broker's URL carries it.
func pinOf(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return "", fmt.Errorf("%s has no certificate", file)
	}
	h := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(h[:]), nil
}

// startAgent gives an agent a join token, which an administrator makes with the CLI, and starts it. It enrols by itself.
func (s *System) startAgent(ctx context.Context) error {
	b, err := os.ReadFile(s.c.AgentConfig)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := yaml.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("agent configuration: %w", err)
	}
	targets, _ := config["targets"].(map[string]any)
	if len(targets) == 0 {
		return errors.New("agent configuration: no targets")
	}
	dir := filepath.Join(s.c.Dir, "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	join, ready, file := filepath.Join(dir, "join-token"), filepath.Join(dir, "ready"), filepath.Join(dir, "agent.yaml")
	config["broker"], config["state_dir"], config["ready_file"], config["base_dir"] = s.Broker, dir, ready, filepath.Dir(s.c.AgentConfig)
	config["join_token"] = map[string]any{"file": join}
	if b, err = yaml.Marshal(config); err != nil {
		return err
	}
	raw, err := s.joinToken(ctx, targets)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(file, b, 0o600), os.WriteFile(join, []byte(raw), 0o600)); err != nil {
		return err
	}
	if s.agent, err = start("sallyport-agent", filepath.Join(dir, "agent.log"), s.program("sallyport-agent", "run", "--config", file)); err != nil {
		return err
	}
	return s.agent.await(ctx, programReady, exists(ready))
}

func (s *System) joinToken(ctx context.Context, targets map[string]any) (string, error) {
	home := filepath.Join(s.c.Dir, "adam")
	args := []string{"agent", "enroll", "dev", "-o", "json"}
	for name := range targets {
		if err := access.CheckName("target", name); err != nil {
			return "", err
		}
		args = append(args, "--target", name)
	}
	id, err := s.IDToken("adam")
	if err != nil {
		return "", err
	}
	if _, err := s.cli(ctx, home, id, "login", "--id-token-file", "-"); err != nil {
		return "", err
	}
	out, err := s.cli(ctx, home, "", args...)
	if err != nil {
		return "", err
	}
	var j struct {
		JoinToken string `yaml:"join_token"`
	}
	if err := yaml.Unmarshal([]byte(out), &j); err != nil || j.JoinToken == "" {
		return "", fmt.Errorf("agent enroll: %w in %s", err, out)
	}
	return j.JoinToken, nil
}

// IDToken is one of the development provider's, for a user that it knows.
func (s *System) IDToken(name string) (string, error) {
	for _, u := range s.c.Users {
		if u.Name == name {
			return idp.Mint(filepath.Join(s.c.Dir, "idp"), idp.TokenRequest{Issuer: s.Issuer, ClientID: CLIClient, User: u.Name, Groups: u.Groups, Now: time.Now()})
		}
	}
	return "", fmt.Errorf("there is no user %s", name)
}

// cli runs the CLI as somebody whose state is below home.
func (s *System) cli(ctx context.Context, home, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.c.Bin, "sallyport"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.c.Dir, "SALLYPORT_HOME=" + home, "SALLYPORT_URL=" + s.Broker}, s.Env...)
	cmd.Stdin = strings.NewReader(stdin)
	b, err := run(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("sallyport %s: %w%s", args[0], err, lastLines(s.emulator.log))
	}
	return string(b), nil
}
