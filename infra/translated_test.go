//go:build translated

package infra

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// translated is the template as CloudFormation sees it; `make check-infra` makes it.
func translated(t *testing.T) template {
	b, err := os.ReadFile("../build/translated.json")
	if err != nil {
		t.Fatal(err)
	}
	var n node
	if err := json.Unmarshal(b, &n); err != nil {
		t.Fatal(err)
	}
	return template{n}
}

// The transform adds resources of its own. Of these, the permissions for function URLs are the one thing that is public.
func TestWhatTheTransformAdds(t *testing.T) {
	x, own := translated(t), open(t).node["Resources"].(node)
	allowed := map[string]bool{"AWS::Lambda::Url": true, "AWS::Lambda::Permission": true, "AWS::Lambda::EventSourceMapping": true, "AWS::Lambda::EventInvokeConfig": true, "AWS::Events::Rule": true}
	urls := 0
	for name, r := range x.node["Resources"].(node) {
		kind := fmt.Sprint(at(r, "Type"))
		if _, ours := own[name]; ours {
			continue
		}
		if !allowed[kind] {
			t.Errorf("the transform adds %s, a %s: look at what it may do", name, kind)
		}
		switch kind {
		case "AWS::Lambda::Url":
			urls++
			if a := fmt.Sprint(at(r, "Properties", "AuthType")); a != "NONE" && a != "map[Fn::If:[HasOnlyAwsAgents AWS_IAM NONE]]" {
				t.Errorf("%s: %v", name, at(r, "Properties"))
			}
		case "AWS::Lambda::Permission":
			p := at(r, "Properties")
			byURL := at(p, "FunctionUrlAuthType") == "NONE" || at(p, "InvokedViaFunctionUrl") == true
			if who := at(p, "Principal"); who == "*" && !byURL || who != "*" && who != "events.amazonaws.com" {
				t.Errorf("%s: %v may call %v", name, who, at(p, "FunctionName"))
			}
		}
	}
	if want := len(x.of("AWS::Lambda::Function")) - len(unreachable); urls != want {
		t.Errorf("%d function URLs, want %d: all functions but %v", urls, want, unreachable)
	}
}

func TestTranslatedFunctions(t *testing.T) {
	for name, f := range translated(t).of("AWS::Lambda::Function") {
		p := f["Properties"]
		if at(p, "Runtime") != "provided.al2023" || at(p, "Handler") != "bootstrap" || !strings.HasSuffix(show(at(p, "Role")), "Role.Arn") {
			t.Errorf("%s: runtime %v, handler %v, role %v", name, at(p, "Runtime"), at(p, "Handler"), at(p, "Role"))
		}
		for k, v := range at(p, "Environment", "Variables").(node) {
			if s, ok := v.(string); ok && len(s) > 0 && strings.Contains(strings.ToLower(k), "secret") {
				t.Errorf("%s: %s is in the environment", name, k)
			}
		}
	}
}
