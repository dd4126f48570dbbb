package deployed

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/sallyport/sallyport/infra/refuse"
)

// stackName is the stack's, as in samconfig.toml.
const stackName = "sallyport"

// deployLimit is for `sam deploy`: 15 s on MiniStack, 30 s on LocalStack, when nothing else runs.
const deployLimit = 5 * time.Minute

// cloud runs the AWS command line and SAM against an emulator.
type cloud struct {
	root     string // of the repository
	dir      string // for what the tools write
	template string // "" is the repository's own
	endpoint string
}

func (c cloud) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	bin := filepath.Join(c.root, "build", "aws-tools", "bin")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	cmd.Dir = c.root
	cmd.Env = append(account, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+c.dir, "AWS_ENDPOINT_URL="+c.endpoint, "AWS_PAGER=", "SAM_CLI_TELEMETRY=0",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true")
	return cmd
}

// OperatorEnv is what AWS's own programs, and ours for operators, need to reach this AWS, and the directory of the former.
func (s *System) OperatorEnv() (env []string, bin string) {
	return append(slices.Clone(account), "AWS_ENDPOINT_URL="+s.cloud.endpoint, "AWS_PAGER=", "SAM_CLI_TELEMETRY=0"), filepath.Join(s.c.Root, "build", "aws-tools", "bin")
}

// Browser is how to start one here that reaches the console: it takes the certificates of this run for good, and nobody else's.
func (s *System) Browser() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(s.door.shown())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	command := "chromium --user-data-dir=" + filepath.Join(filepath.Dir(s.c.Dir), "browser") + " --ignore-certificate-errors-spki-list=" + base64.StdEncoding.EncodeToString(sum[:])
	if _, ok := s.door.(*internet); ok { // names that no resolver knows
		command += " --proxy-server=http://" + s.door.address()
	}
	return command + " " + s.Console, nil
}

// aws calls one operation and decodes its answer; out nil takes any.
func (c cloud) aws(ctx context.Context, out any, args ...string) error {
	b, err := run(ctx, c.command(ctx, "aws", append(args, "--output", "json")...))
	if err != nil {
		return fmt.Errorf("aws %s: %w", strings.Join(args[:2], " "), err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("aws %s: %w in %s", strings.Join(args[:2], " "), err, b)
	}
	return nil
}

// arch is the processor that functions run on here: the host's.
func arch() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return "arm64"
}

// deploy is `sam deploy`, as `make deploy` runs it, with the parameters that only a running local system knows.
func (c cloud) deploy(ctx context.Context, parameters map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, deployLimit)
	defer cancel()
	template := c.template
	if template == "" {
		template = filepath.Join(c.root, "infra", "template.yaml")
	}
	// No local AWS evaluates a template's rules.
	if err := preflight(template, parameters); err != nil {
		return err
	}
	args := []string{"deploy", "-t", template, "--config-file", filepath.Join(c.root, "samconfig.toml"), "--config-env", "local",
		"--no-progressbar", "--parameter-overrides"}
	for k, v := range parameters {
		args = append(args, k+"="+v)
	}
	sort.Strings(args[len(args)-len(parameters):])
	if _, err := run(ctx, c.command(ctx, "sam", args...)); err != nil {
		return fmt.Errorf("sam deploy: %w", err)
	}
	return nil
}

// preflight refuses what CloudFormation would, as `make deploy` does.
func preflight(template string, parameters map[string]string) error {
	b, err := os.ReadFile(template)
	if err != nil {
		return err
	}
	t, err := refuse.Read(b)
	if err != nil {
		return fmt.Errorf("%s: %w", template, err)
	}
	return t.Error(template, parameters)
}

// outputs are the stack's.
func (c cloud) outputs(ctx context.Context) (map[string]string, error) {
	var out struct {
		Stacks []struct {
			StackStatus string
			Outputs     []struct{ OutputKey, OutputValue string }
		}
	}
	if err := c.aws(ctx, &out, "cloudformation", "describe-stacks", "--stack-name", stackName); err != nil {
		return nil, err
	}
	if len(out.Stacks) != 1 || !strings.HasSuffix(out.Stacks[0].StackStatus, "_COMPLETE") {
		return nil, fmt.Errorf("stack %s: %+v", stackName, out.Stacks)
	}
	m := map[string]string{}
	for _, o := range out.Stacks[0].Outputs {
		m[o.OutputKey] = o.OutputValue
	}
	return m, nil
}

// physical are the stack's resources: logical id to physical.
func (c cloud) physical(ctx context.Context) (map[string]string, error) {
	var out struct {
		StackResources []struct {
			LogicalID  string `json:"LogicalResourceId"`
			PhysicalID string `json:"PhysicalResourceId"`
		}
	}
	if err := c.aws(ctx, &out, "cloudformation", "describe-stack-resources", "--stack-name", stackName); err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, r := range out.StackResources {
		m[r.LogicalID] = r.PhysicalID
	}
	return m, nil
}

// finish does by API what emulators leave out of a template: both point-in-time recovery, MiniStack TTL and Object Lock as well (all). Nothing of it is
// needed on AWS.
func (c cloud) finish(ctx context.Context, outputs map[string]string, all bool) error {
	for _, t := range []string{"GrantsTable", "ApprovalsTable", "RegistryTable", "AuditTable"} {
		if all && t != "AuditTable" {
			if err := c.aws(ctx, nil, "dynamodb", "update-time-to-live", "--table-name", outputs[t], "--time-to-live-specification", "Enabled=true,AttributeName=expires"); err != nil {
				return err
			}
		}
		if err := c.aws(ctx, nil, "dynamodb", "update-continuous-backups", "--table-name", outputs[t], "--point-in-time-recovery-specification", "PointInTimeRecoveryEnabled=true"); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return c.aws(ctx, nil, "s3api", "put-object-lock-configuration", "--bucket", outputs["EvidenceBucket"], "--object-lock-configuration",
		`{"ObjectLockEnabled":"Enabled","Rule":{"DefaultRetention":{"Mode":"GOVERNANCE","Days":1}}}`)
}

// remove is `sam delete`, as `make destroy` runs it.
func (c cloud) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deployLimit)
	defer cancel()
	_, err := run(ctx, c.command(ctx, "sam", "delete", "--stack-name", stackName, "--no-prompts", "--region", region, "--s3-bucket", "sallyport-deploy", "--s3-prefix", "sam"))
	if err != nil {
		return fmt.Errorf("sam delete: %w", err)
	}
	return nil
}
