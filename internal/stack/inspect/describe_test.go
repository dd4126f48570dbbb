package inspect_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/stack/inspect"
)

func whole() inspect.Deployment {
	d := inspect.Deployment{Name: "s", Status: "CREATE_COMPLETE", Outputs: map[string]string{"Release": fmt.Sprint(inspect.Release)}, Parameters: map[string]string{}}
	for _, k := range []string{"Broker", "Console", "Issuer", "LogName", "TokenUrl", "DecideUrl", "ChangesUrl", "RecordUrl", "ApproveUrl", "EnrollUrl", "GrantsTable",
		"ApprovalsTable", "RegistryTable", "AuditTable", "EvidenceBucket", "BlobsBucket", "TokenKey", "CaKey", "CheckpointKey", "StateKey"} {
		d.Outputs[k] = "x"
	}
	return d
}

func TestAStackThatCannotBeWorkedWithSaysWhy(t *testing.T) {
	if err := whole().Usable(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*inspect.Deployment){
		"was never made whole":       func(d *inspect.Deployment) { d.Status = "ROLLBACK_COMPLETE" },
		"DELETE_FAILED":              func(d *inspect.Deployment) { d.Status = "DELETE_FAILED" },
		"has no outputs":             func(d *inspect.Deployment) { d.Outputs = nil },
		"is older than this program": func(d *inspect.Deployment) { delete(d.Outputs, "Release") },
		"does not know":              func(d *inspect.Deployment) { d.Outputs["Release"] = fmt.Sprint(inspect.Release + 1) },
		`Release is "new"`:           func(d *inspect.Deployment) { d.Outputs["Release"] = "new" },
		"lacks outputs: CaKey":       func(d *inspect.Deployment) { delete(d.Outputs, "CaKey") },
		"is not one of ours":         func(d *inspect.Deployment) { d.Outputs = map[string]string{"Bucket": "b"} },
	} {
		d := whole()
		spoil(&d)
		err := d.Usable()
		if e := (*api.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Message, want) || e.Hint == "" {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// The template is of the release that this program expects, and has every output that it needs.
func TestTheTemplateIsOfThisRelease(t *testing.T) {
	b, err := os.ReadFile("../../../infra/template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, outputs, _ := strings.Cut(string(b), "\nOutputs:\n")
	d := inspect.Deployment{Name: "s", Status: "CREATE_COMPLETE", Outputs: map[string]string{}}
	for _, m := range regexp.MustCompile(`(?m)^  (\w+):\n    Description: .*\n    Value: (.*)$`).FindAllStringSubmatch(outputs, -1) {
		d.Outputs[m[1]] = strings.Trim(m[2], `"`)
	}
	if err := d.Usable(); err != nil {
		t.Error(err)
	}
}

const env = "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_REGION=eu-west-1"

func getenv(pairs string) func(string) string {
	all := map[string]string{}
	for _, p := range strings.Fields(pairs) {
		k, v, _ := strings.Cut(p, "=")
		all[k] = v
	}
	return func(k string) string { return all[k] }
}

func TestDescribe(t *testing.T) {
	answers := map[string]string{
		"there": `<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>there</StackName><StackStatus>UPDATE_COMPLETE</StackStatus><CreationTime>2026-01-02T03:04:05Z</CreationTime>` +
			`<Outputs><member><OutputKey>Broker</OutputKey><OutputValue>https://b.test/</OutputValue></member></Outputs>` +
			`<Parameters><member><ParameterKey>Epoch</ParameterKey><ParameterValue>3</ParameterValue></member></Parameters></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`,
		"gone":   `<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>Stack with id gone does not exist</Message></Error></ErrorResponse>`,
		"denied": `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>`,
	}
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.FormValue("StackName")
		if name != "there" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, answers[name])
	}))
	defer aws.Close()
	environment := getenv(env + " AWS_ENDPOINT_URL=" + aws.URL)
	d, err := inspect.Describe(t.Context(), environment, "there")
	if err != nil || d.Status != "UPDATE_COMPLETE" || d.Outputs["Broker"] != "https://b.test/" || d.Parameters["Epoch"] != "3" {
		t.Errorf("%+v %v", d, err)
	}
	if _, err = inspect.Describe(t.Context(), environment, "gone"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a stack that is not there: %v", err)
	}
	if _, err = inspect.Describe(t.Context(), environment, "denied"); err == nil || errors.Is(err, api.ErrNotFound) || !strings.Contains(err.Error(), "not you") {
		t.Errorf("a stack that may not be seen: %v", err)
	}
	for name, at := range map[string]string{"may cloudformation:DescribeStacks": aws.URL, "reaches AWS": "http://127.0.0.1:1"} {
		_, err := inspect.Describe(t.Context(), getenv(env+" AWS_ENDPOINT_URL="+at), "denied")
		if e := (*api.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Hint, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, lacking := range []string{"", "AWS_ACCESS_KEY_ID=a AWS_REGION=r", "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b", env + " AWS_ENDPOINT_URL=x"} {
		if _, err := inspect.Describe(t.Context(), getenv(lacking), "there"); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%q: %v", lacking, err)
		}
	}
}
