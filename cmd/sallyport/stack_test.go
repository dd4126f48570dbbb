package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// A stack command that cannot work says why before it calls anybody.
func TestStackRefusals(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	file := func(body string) string {
		f := filepath.Join(t.TempDir(), "outputs.json")
		if err := os.WriteFile(f, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	none := file(`{"Stacks":[{"Outputs":[]}]}`)
	partial := file(`{"Stacks":[{"Outputs":[{"OutputKey":"GrantsTable","OutputValue":"grants"}]}]}`)
	lacking := file(`{"Stacks":[{"StackName":"s","Outputs":[{"OutputKey":"GrantsTable","OutputValue":"grants"},{"OutputKey":"Release","OutputValue":"1"}]}]}`)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"init", "--pack", "guarded-postgres"}, "give either --stack or --outputs"},
		{[]string{"init", "--pack", "guarded-postgres", "--stack", "a", "--outputs", none}, "give either --stack or --outputs"},
		{[]string{"init", "--outputs", none}, "give either --policy or --pack"},
		{[]string{"init", "--outputs", none, "--pack", "nosuch"}, "nosuch"},
		{[]string{"init", "--outputs", none, "--pack", "guarded-postgres"}, "no outputs of one stack"},
		{[]string{"init", "--outputs", file("<html>"), "--pack", "guarded-postgres"}, "no outputs of one stack"},
		{[]string{"init", "--outputs", partial, "--pack", "guarded-postgres"}, "is older than this program: it is of release 0"},
		{[]string{"publish", "nosuch", "--outputs", partial}, "nosuch is no policy directory"},
		{[]string{"publish", partial, "--outputs", partial}, "it is a file"},
		{[]string{"relay-certificate", "x", "--outputs", partial}, "--dns or --ip is missing"},
		{[]string{"relay-certificate", "x", "--outputs", partial, "--ip", "localhost"}, `--ip "localhost" is not an address`},
		{[]string{"evidence", filepath.Join(t.TempDir(), "x"), "--outputs", lacking}, "lacks outputs: Broker, Console"},
	} {
		c := stackCommand()
		var out bytes.Buffer
		c.SetArgs(tt.args)
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceErrors, c.SilenceUsage = true, true
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.args, err, tt.want)
		}
	}
}

// Where a stack was deleted, AWS answers in its place: that is no answer of the broker, and people hear what to look at.
func TestAnAnswerOfSomebodyElse(t *testing.T) {
	err := fmt.Errorf("ticket for app: %w", broker.Stranger{Status: 403})
	if e := told(err); !strings.Contains(e.Message, "HTTP status 403") || !strings.Contains(e.Hint, "doctor") {
		t.Errorf("%+v", e)
	}
	if code := exitCode(err); code != api.ExitUnreachable {
		t.Errorf("exit %d", code)
	}
}
