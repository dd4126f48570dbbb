package deployed

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/idp"
)

// CLIClient and ConsoleClient are the client ids at the identity provider.
const (
	CLIClient     = "sallyport-cli"
	ConsoleClient = "sallyport-console"
)

// Config says what to run. All is required but Policy.
type Config struct {
	Emulator    string // MiniStack or LocalStack
	Root        string // of the repository: template, dist/functions, build/
	Bin         string // directory of sallyport, sallyport-agent and sallyport-relay
	Dir         string // for everything that is written; made where missing
	AgentConfig string // the agent's targets, as `sallyport dev --agent-config` takes them
	Policy      string // policy directory; "" uses the pack guarded-postgres
	Users       []idp.User
	Say         func(format string, args ...any) // progress, for people
}

// System is a deployed and running system.
type System struct {
	Broker  string // SALLYPORT_URL
	Console string
	Issuer  string // of the identity provider
	Relay   string // host:port
	CA      string // file with the CA's certificate, PEM
	Outputs map[string]string
	// Env is what programs need in their environment to reach the broker; nil when it is reached like any other.
	Env []string
	// Roots is a file with the roots that vouch for the broker's and the console's names, PEM.
	Roots string

	c          Config
	parameters map[string]string // of the last deployment
	emulator   *emulator
	cloud      cloud
	door       door
	provider   *http.Server
	relay      *process
	agent      *process
}

// Start deploys the template to a local AWS of its own, and starts identity provider, front, relay and agent. Whatever it started
// before an error is stopped again.
func Start(ctx context.Context, c Config) (*System, error) {
	s := &System{c: c}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// door is the way in to the functions. On MiniStack every function has its own URL and name, as on AWS; on LocalStack, whose function URLs
// are plain HTTP, one front with a name of its own stands before all of them (PublicHost).
type door interface {
	start() error
	stop() error
	address() string
	shown() any // public key, of the certificates that are shown there
}

// at are the addresses that the stack's parameters name; they are known before anything runs.
type at struct{ front, relay string }

func (s *System) start(ctx context.Context) error {
	issuer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var where at
	for _, a := range []*string{&where.front, &where.relay} {
		port, err := freePort()
		if err != nil {
			return err
		}
		*a = fmt.Sprintf("127.0.0.1:%d", port)
	}
	s.Issuer, s.Relay = "http://"+issuer.Addr().String(), where.relay
	if s.emulator, err = startEmulator(ctx, s.c.Emulator, s.c.Root, filepath.Join(s.c.Dir, "aws")); err != nil {
		return err
	}
	s.c.Say("%s is up on %s", s.emulator.name, s.emulator.url)
	s.cloud = cloud{root: s.c.Root, dir: s.c.Dir, endpoint: s.emulator.url}
	if err := s.deploy(ctx, where); err != nil {
		return errors.Join(err, issuer.Close())
	}
	if err := s.identities(issuer); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.open(ctx, where); err != nil {
		return err
	}
	if err := s.startRelay(ctx, where); err != nil {
		return err
	}
	return s.startAgent(ctx)
}

// identities serves the development identity provider.
func (s *System) identities(l net.Listener) error {
	p, err := idp.New(idp.Config{Issuer: s.Issuer, Dir: filepath.Join(s.c.Dir, "idp"), Users: s.c.Users, Clients: []idp.Client{
		{ID: CLIClient, RedirectURIs: []string{"http://127.0.0.1/callback"}},
		{ID: ConsoleClient, RedirectURIs: []string{strings.TrimSuffix(s.Outputs["Console"], "/") + "/callback"}},
	}})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.provider = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.provider.Serve(l) }() // until Stop closes it
	return nil
}

func (s *System) deploy(ctx context.Context, where at) error {
	begun := time.Now()
	if err := s.cloud.aws(ctx, nil, "s3api", "create-bucket", "--bucket", "sallyport-deploy"); err != nil {
		return err
	}
	s.parameters = map[string]string{"Arch": arch(), "PublicHost": where.front, "Relays": where.relay, "OidcIssuer": s.Issuer,
		"OidcClientId": CLIClient, "OidcConsoleClientId": ConsoleClient, "DeletionProtection": "false", "EvidenceLockDays": "1"}
	if s.c.Emulator == MiniStack {
		delete(s.parameters, "PublicHost")
	}
	if err := s.cloud.deploy(ctx, s.parameters); err != nil {
		return fmt.Errorf("%w%s", err, lastLines(s.emulator.log))
	}
	var err error
	if s.Outputs, err = s.cloud.outputs(ctx); err != nil {
		return err
	}
	if err := s.cloud.finish(ctx, s.Outputs, s.c.Emulator == MiniStack); err != nil {
		return err
	}
	if s.c.Emulator == MiniStack {
		if err := s.nameCallers(ctx); err != nil {
			return err
		}
	}
	s.c.Say("infra/template.yaml is deployed as stack %s, in %.0f s", stackName, time.Since(begun).Seconds())
	return nil
}

// nameCallers tells the ledger which function has which credentials, and how resources are called in calls.tsv.
func (s *System) nameCallers(ctx context.Context) error {
	var all struct {
		Functions []struct{ FunctionName, FunctionArn, Role string }
	}
	if err := s.cloud.aws(ctx, &all, "lambda", "list-functions"); err != nil {
		return err
	}
	physical, err := s.cloud.physical(ctx)
	if err != nil {
		return err
	}
	l := s.emulator.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for logical, id := range physical {
		for _, f := range all.Functions {
			if f.FunctionName == id && strings.HasSuffix(logical, "Function") {
				l.functions[credentials(f.FunctionArn, f.Role)] = strings.ToLower(strings.TrimSuffix(logical, "Function"))
			}
		}
		l.resources[id[strings.LastIndex(id, "/")+1:]] = logical + ".Arn"
	}
	if len(l.functions) == 0 {
		return errors.New("no function of the stack is known by its credentials")
	}
	return nil
}

// ready makes the new stack ready, as an operator does.
func (s *System) ready(ctx context.Context) error {
	args := []string{"stack", "init", "--pack", "guarded-postgres"}
	if s.c.Policy != "" {
		args = []string{"stack", "init", "--policy", s.c.Policy}
	}
	_, err := s.Operator(ctx, args...)
	return err
}

// Operator runs a `sallyport stack` command with an operator's credentials.
func (s *System) Operator(ctx context.Context, args ...string) (string, error) {
	cmd := s.cloud.command(ctx, "sallyport", append(args, "--stack", stackName)...)
	cmd.Path = filepath.Join(s.c.Bin, "sallyport")
	cmd.Err = nil
	b, err := run(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("sallyport %s: %w", strings.Join(args[:2], " "), err)
	}
	return string(b), nil
}

// open opens the way in, and makes the certificates that are the operator's to make.
func (s *System) open(ctx context.Context, where at) error {
	relay := filepath.Join(s.c.Dir, "relay")
	if _, err := s.Operator(ctx, "stack", "relay-certificate", relay, "--ip", "127.0.0.1"); err != nil {
		return err
	}
	s.CA, s.Broker, s.Console = filepath.Join(relay, "ca.pem"), s.Outputs["Broker"], strings.TrimSuffix(s.Outputs["Console"], "/")
	if s.c.Emulator == MiniStack {
		s.Roots = filepath.Join(filepath.Dir(s.c.Dir), "roots.pem")
		n, err := newInternet(s.emulator.url, s.Roots)
		if err != nil {
			return err
		}
		s.door, s.Env = n, []string{"HTTPS_PROXY=http://" + n.addr, "SSL_CERT_FILE=" + s.Roots}
		return n.start()
	}
	own := filepath.Join(s.c.Dir, "front")
	if _, err := s.Operator(ctx, "stack", "relay-certificate", own, "--ip", "127.0.0.1", "--broker"); err != nil {
		return err
	}
	f, err := newFront(where.front, s.emulator.url, map[string]string{"token": s.Outputs["TokenUrl"], api.FunctionDecide: s.Outputs["DecideUrl"],
		api.FunctionChanges: s.Outputs["ChangesUrl"], api.FunctionRecord: s.Outputs["RecordUrl"], api.FunctionApprove: s.Outputs["ApproveUrl"],
		api.FunctionEnroll: s.Outputs["EnrollUrl"]})
	if err != nil {
		return err
	}
	if f.cert, err = tls.LoadX509KeyPair(filepath.Join(own, "cert.pem"), filepath.Join(own, "key.pem")); err != nil {
		return err
	}
	pin, err := pinOf(s.CA)
	if err != nil {
		return err
	}
	s.door, s.Roots, s.Broker = f, s.CA, s.Broker+"#ca="+pin
	return f.start()
}

const (
	programReady = 30 * time.Second
	programStop  = 15 * time.Second
)

func (s *System) startRelay(ctx context.Context, where at) error {
	dir := filepath.Join(s.c.Dir, "relay")
	config := filepath.Join(dir, "relay.yaml")
	ready := filepath.Join(dir, "ready")
	b, err := yaml.Marshal(map[string]any{"listen": where.relay, "certificate": filepath.Join(dir, "cert.pem"), "key": filepath.Join(dir, "key.pem"),
		"ca": filepath.Join(dir, "ca.pem"), "broker": s.Broker, "ready_file": ready})
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, b, 0o600); err != nil {
		return err
	}
	if s.relay, err = start("sallyport-relay", filepath.Join(dir, "relay.log"), s.program("sallyport-relay", "--config", config)); err != nil {
		return err
	}
	return s.relay.await(ctx, programReady, exists(ready))
}

func (s *System) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.c.Bin, name), args...)
	cmd.Env = append(os.Environ(), s.Env...)
	return cmd
}

// Outage closes the way in to the functions, or opens it again.
func (s *System) Outage(down bool) error {
	if down {
		return s.door.stop()
	}
	return s.door.start()
}

// Door is the address that is closed during an outage.
func (s *System) Door() string { return s.door.address() }

// Update deploys again with another parameter, over what runs: every function gets a new environment.
func (s *System) Update(ctx context.Context) error {
	s.parameters["Relays"] = s.Relay + "," + s.Relay
	return s.cloud.deploy(ctx, s.parameters)
}

// Remove deletes the stack, and makes sure that what is evidence is still there.
func (s *System) Remove(ctx context.Context) error {
	if err := s.cloud.remove(ctx); err != nil {
		return err
	}
	if _, err := s.cloud.outputs(ctx); err == nil {
		return errors.New("sam delete: the stack is still there")
	}
	if err := s.cloud.aws(ctx, nil, "s3api", "head-object", "--bucket", s.Outputs["EvidenceBucket"], "--key", "checkpoint"); err != nil {
		return fmt.Errorf("the evidence did not outlive its stack: %w", err)
	}
	return s.cloud.aws(ctx, nil, "dynamodb", "describe-table", "--table-name", s.Outputs["AuditTable"])
}

// Locked tries to delete what is under Object Lock, with the account's own credentials and all that they may do.
func (s *System) Locked(ctx context.Context) error {
	var all struct {
		Versions []struct {
			Key string
			ID  string `json:"VersionId"`
		}
	}
	bucket := s.Outputs["EvidenceBucket"]
	if err := s.cloud.aws(ctx, &all, "s3api", "list-object-versions", "--bucket", bucket, "--max-keys", "1"); err != nil {
		return err
	}
	if len(all.Versions) == 0 {
		return errors.New("the evidence bucket is empty")
	}
	v := all.Versions[0]
	if err := s.cloud.aws(ctx, nil, "s3api", "delete-object", "--bucket", bucket, "--key", v.Key, "--version-id", v.ID); err == nil {
		return fmt.Errorf("%s could be deleted though it is locked", v.Key)
	}
	return nil
}

// Break makes the local AWS do wrong what f says, until it is called again; only MiniStack tells functions apart.
func (s *System) Break(f Faults) {
	l := s.emulator.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
}

// Calls are what each function has called so far; nil where the emulator cannot tell them apart.
func (s *System) Calls() (calls []Call, refused []string) {
	if s.emulator == nil || s.emulator.ledger == nil {
		return nil, nil
	}
	return s.emulator.ledger.all(), s.emulator.ledger.denials()
}

// Stop ends everything, the local AWS with all that it holds.
func (s *System) Stop() error {
	err := errors.Join(s.agent.stop(programStop), s.relay.stop(programStop))
	s.agent, s.relay = nil, nil
	if s.door != nil {
		err = errors.Join(err, s.door.stop())
	}
	if s.emulator != nil {
		s.emulator.stop()
		s.emulator = nil
	}
	if s.provider != nil {
		err = errors.Join(err, s.provider.Close())
		s.provider = nil
	}
	return err
}

// StopPrograms ends agent and relay in order: what the agent has to say is said.
func (s *System) StopPrograms() error {
	err := errors.Join(s.agent.stop(programStop), s.relay.stop(programStop))
	s.agent, s.relay = nil, nil
	return err
}

// Log is what the programs said, for a search.
func (s *System) Log() string {
	var all strings.Builder
	for _, p := range []string{"relay/relay.log", "agent/agent.log", "aws/ministack.log", "aws/localstack.log"} {
		f, err := os.Open(filepath.Join(s.c.Dir, p))
		if err != nil {
			continue
		}
		_, _ = io.Copy(&all, f) // a log that cannot be read has nothing in it
		_ = f.Close()
	}
	return all.String()
}

// invoke calls a function by the Lambda API, as an operator would.
func (s *System) invoke(ctx context.Context, logical string) error {
	physical, err := s.cloud.physical(ctx)
	if err != nil {
		return err
	}
	out := filepath.Join(s.c.Dir, "invoked")
	var answer struct{ FunctionError string }
	if err := s.cloud.aws(ctx, &answer, "lambda", "invoke", "--function-name", physical[logical], out); err != nil {
		return err
	}
	if answer.FunctionError != "" {
		b, _ := os.ReadFile(out)
		var said struct{ ErrorMessage string }
		_ = json.Unmarshal(b, &said) // an answer of another shape is shown whole
		return fmt.Errorf("%s: %s %s%s", logical, answer.FunctionError, said.ErrorMessage, b)
	}
	return nil
}
