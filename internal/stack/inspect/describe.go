package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/stack"
)

// Release is what this code expects of a stack, as the output of the same name says it: raised when something is looked for in a stack that
// earlier templates did not make. Stacks from before there was such an output are of release 0.
const Release = 1

// Deployment is what CloudFormation says of a stack.
type Deployment struct {
	Name       string
	Status     string // of CloudFormation, for example UPDATE_COMPLETE
	Outputs    map[string]string
	Parameters map[string]string
}

// required are the outputs without which nobody can work with a stack.
var required = []string{"Broker", "Console", "Issuer", "LogName", "TokenUrl", "DecideUrl", "ChangesUrl", "RecordUrl", "ApproveUrl", "EnrollUrl",
	"GrantsTable", "ApprovalsTable", "RegistryTable", "AuditTable", "EvidenceBucket", "BlobsBucket", "TokenKey", "CaKey", "CheckpointKey", "StateKey"}

// described is the part of describe-stacks that is read, whoever asked CloudFormation.
type described struct {
	StackName, StackStatus string
	Outputs                []struct{ OutputKey, OutputValue string }
	Parameters             []struct{ ParameterKey, ParameterValue string }
}

func (d described) deployment() Deployment {
	out := Deployment{Name: d.StackName, Status: d.StackStatus, Outputs: map[string]string{}, Parameters: map[string]string{}}
	for _, o := range d.Outputs {
		out.Outputs[o.OutputKey] = o.OutputValue
	}
	for _, p := range d.Parameters {
		out.Parameters[p.ParameterKey] = p.ParameterValue
	}
	return out
}

// Parse reads what `aws cloudformation describe-stacks --stack-name NAME` prints.
func Parse(raw []byte) (Deployment, error) {
	var all struct{ Stacks []described }
	if err := json.Unmarshal(raw, &all); err != nil || len(all.Stacks) != 1 || len(all.Stacks[0].Outputs) == 0 {
		return Deployment{}, api.Because(api.ErrBadRequest, "want what `aws cloudformation describe-stacks --stack-name NAME` prints", "no outputs of one stack: %v", err)
	}
	d := all.Stacks[0].deployment()
	if d.Name == "" {
		d.Name = "(without a name)"
	}
	return d, nil
}

// Describe asks CloudFormation for a stack. A stack that is not there, or that failed before it was anything, is an error of its own.
func Describe(ctx context.Context, getenv func(string) string, name string) (Deployment, error) {
	config, err := stack.Config(getenv, "CLOUDFORMATION")
	if err != nil {
		return Deployment{}, api.Because(api.ErrBadRequest, `put credentials and region into the environment: eval "$(aws configure export-credentials --format env)"; export AWS_REGION=…`, "%v", err)
	}
	out, err := cloudformation.NewFromConfig(config).DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &name})
	if refused := smithy.APIError(nil); errors.As(err, &refused) && refused.ErrorCode() == "ValidationError" {
		return Deployment{}, api.Because(api.ErrNotFound, "look at the name, the account and the region of your credentials ("+config.Region+"): `aws cloudformation list-stacks`; deploy with `make deploy`",
			"there is no stack %s here", name)
	}
	if err != nil {
		return Deployment{}, unasked(name, config.Region, err)
	}
	if len(out.Stacks) != 1 {
		return Deployment{}, api.Because(api.ErrNotFound, "deploy with `make deploy`", "there is no stack %s here", name)
	}
	d := described{StackName: name, StackStatus: string(out.Stacks[0].StackStatus)}
	value := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	for _, o := range out.Stacks[0].Outputs {
		d.Outputs = append(d.Outputs, struct{ OutputKey, OutputValue string }{value(o.OutputKey), value(o.OutputValue)})
	}
	for _, p := range out.Stacks[0].Parameters {
		d.Parameters = append(d.Parameters, struct{ ParameterKey, ParameterValue string }{value(p.ParameterKey), value(p.ParameterValue)})
	}
	return d.deployment(), nil
}

// unasked says what to do where CloudFormation did not tell.
func unasked(name, region string, err error) error {
	next := "see whether this machine reaches AWS (proxy, DNS), and AWS_ENDPOINT_URL where it is set"
	if refused := smithy.APIError(nil); errors.As(err, &refused) {
		next = "look at whose credentials these are (`aws sts get-caller-identity`), whether they have ended, and whether they may cloudformation:DescribeStacks in " + region
	}
	return fmt.Errorf("%w: %w", api.Because(api.ErrUnavailable, next, "describe stack %s", name), err)
}

// Usable says why a stack cannot be worked with by this program: it failed, is of another release, or lacks outputs.
func (d Deployment) Usable() error {
	switch release, err := d.release(); {
	case d.failed():
		return api.Because(api.ErrUnavailable, "see why with `aws cloudformation describe-stack-events --stack-name "+d.Name+"`; delete what is left of it (`make destroy`) and deploy again",
			"stack %s is in state %s: it was never made whole", d.Name, d.Status)
	case len(d.Outputs) == 0:
		return api.Because(api.ErrUnavailable, "wait until it is deployed, then try again", "stack %s is in state %s and has no outputs", d.Name, d.Status)
	case err != nil:
		return api.Because(api.ErrBadRequest, "deploy infra/template.yaml as it is", "stack %s: %v", d.Name, err)
	case release > Release:
		return api.Because(api.ErrBadRequest, "use the sallyport that was released with the stack, or a newer one", "stack %s is of release %d, which this program does not know: it knows up to %d", d.Name, release, Release)
	case len(d.missing()) == len(required):
		return api.Because(api.ErrBadRequest, "give the name of the stack that infra/template.yaml was deployed as", "stack %s is not one of ours: it has none of our outputs", d.Name)
	case release < Release:
		return api.Because(api.ErrConflict, "deploy the template of this version over it (`make deploy`), or use the sallyport that it was deployed with",
			"stack %s is older than this program: it is of release %d, and %d is needed", d.Name, release, Release)
	case len(d.missing()) > 0:
		return api.Because(api.ErrConflict, "deploy infra/template.yaml over it (`make deploy`): outputs must not be taken away", "stack %s lacks outputs: %s", d.Name, strings.Join(d.missing(), ", "))
	}
	return nil
}

func (d Deployment) missing() []string {
	return slices.DeleteFunc(slices.Clone(required), func(k string) bool { return d.Outputs[k] != "" })
}

func (d Deployment) release() (int, error) {
	v := d.Outputs["Release"]
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("its output Release is %q, want a number from 1", v)
	}
	return n, nil
}

// failed says whether the stack was never made whole, or is being taken away.
func (d Deployment) failed() bool {
	return slices.Contains([]string{"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "ROLLBACK_IN_PROGRESS", "DELETE_COMPLETE", "DELETE_FAILED", "DELETE_IN_PROGRESS", "REVIEW_IN_PROGRESS"}, d.Status)
}
