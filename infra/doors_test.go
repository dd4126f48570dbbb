package infra

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// Everybody may call a URL that is open; no other permission is given, and each of those that are goes away when agents come through AWS alone.
func TestOpenDoors(t *testing.T) {
	x := open(t)
	found := map[string]bool{}
	for name, r := range x.of("AWS::Lambda::Permission") {
		p := r["Properties"]
		f := strings.ToLower(strings.TrimSuffix(show(at(p, "FunctionName")), "Function"))
		byURL := at(p, "Action") == "lambda:InvokeFunctionUrl" && at(p, "FunctionUrlAuthType") == "NONE" ||
			at(p, "Action") == "lambda:InvokeFunction" && at(p, "InvokedViaFunctionUrl") == "true"
		if !slices.Contains(agentsOnly, f) || !byURL || at(r, "Condition") != "HasKeyAgents" || at(p, "Principal") != "*" {
			t.Errorf("%s: %v", name, r)
		}
		found[f+" "+show(at(p, "Action"))] = true
	}
	if len(found) != 2*len(agentsOnly) {
		t.Errorf("doors are %v", found)
	}
}

// The doors of agents with an AWS identity lead to the same code, and AWS asks who is there.
func TestDoorsForAwsIdentities(t *testing.T) {
	x := open(t)
	functions := append(slices.Clone(agentsOnly), "enroll")
	for _, f := range functions {
		alias, url := at(x.node, "Resources", title(f)+"Iam"), at(x.node, "Resources", title(f)+"IamUrl")
		if at(alias, "Properties", "FunctionVersion") != "$LATEST" || show(at(alias, "Properties", "FunctionName")) != title(f)+"Function" ||
			at(url, "Properties", "AuthType") != "AWS_IAM" || at(url, "Properties", "Qualifier") != at(alias, "Properties", "Name") ||
			show(at(url, "Properties", "TargetFunctionArn")) != title(f)+"Function" {
			t.Errorf("%s: alias %v, URL %v", f, alias, url)
		}
		for _, r := range []any{alias, url} {
			if at(r, "Condition") != "HasAwsAgents" {
				t.Errorf("%s: is there without being asked for", f)
			}
		}
	}
	if n := len(x.of("AWS::Lambda::Url")); n != len(functions) {
		t.Errorf("%d URLs, want %d", n, len(functions))
	}
	policies := x.of("AWS::IAM::ManagedPolicy")
	for _, s := range list(at(policies["AgentPolicy"], "Properties", "PolicyDocument", "Statement")) {
		if len(list(at(s, "Resource"))) != len(functions) || at(s, "Condition") == nil || len(list(at(s, "Action"))) != 1 {
			t.Errorf("agents may %v", s)
		}
	}
	if len(policies) != 1 || at(policies["AgentPolicy"], "Condition") != "HasAwsAgents" {
		t.Errorf("managed policies: %v", policies)
	}
}

// The distribution sends token's paths to token and all others to approve, keeps nothing, and shows both the secret.
func TestFront(t *testing.T) {
	x := open(t)
	if n := len(x.of("AWS::CloudFront::Distribution")); n != 1 {
		t.Fatalf("%d distributions", n)
	}
	front := at(x.node, "Resources", "Front")
	config := at(front, "Properties", "DistributionConfig")
	if at(front, "Condition") != "HasFront" || len(list(at(config, "Origins"))) != 2 {
		t.Fatalf("%v", front)
	}
	for _, o := range list(at(config, "Origins")) {
		headers := list(at(o, "OriginCustomHeaders"))
		if at(o, "CustomOriginConfig", "OriginProtocolPolicy") != "https-only" || len(headers) != 1 || at(headers[0], "HeaderName") != "X-Sallyport-Origin" ||
			show(at(headers[0], "HeaderValue")) != "{{resolve:secretsmanager:OriginSecret:SecretString}}" {
			t.Errorf("origin %v", o)
		}
	}
	to := map[string]string{}
	for _, b := range append(list(at(config, "CacheBehaviors")), at(config, "DefaultCacheBehavior")) {
		if at(b, "ViewerProtocolPolicy") != "https-only" || at(b, "CachePolicyId") != "4135ea2d-6df8-44a3-9df3-4b5a84be39ad" || at(b, "OriginRequestPolicyId") != "b689b0a8-53d0-40ab-baf2-68738e2966ac" {
			t.Errorf("behaviour %v caches, or withholds something from the function", b)
		}
		path, _ := at(b, "PathPattern").(string)
		to[path] = show(at(b, "TargetOriginId"))
	}
	want := map[string]string{"": "approve"}
	for _, p := range []string{api.PathDiscovery, api.PathJWKS, api.PathToken, api.PathRenew, api.PathTicket, api.PathRevoke, api.PathWhoami} {
		want[p] = "token"
	}
	if fmt.Sprint(to) != fmt.Sprint(want) {
		t.Errorf("paths go to %v, want %v", to, want)
	}
	for _, f := range []string{"token", "approve"} {
		if v := fmt.Sprint(at(x.functions()[f], "Environment", "Variables", "SALLYPORT_ORIGIN_SECRET")); v != "map[Fn::If:[HasFront map[Ref:OriginSecret] ]]" {
			t.Errorf("%s answers who goes past the distribution: %s", f, v)
		}
	}
}

// No secret has a value here, and none is in an environment: what is there is its name.
func TestSecrets(t *testing.T) {
	x := open(t)
	for name, r := range x.of("AWS::SecretsManager::Secret") {
		p := r["Properties"]
		if at(p, "SecretString") != nil || at(p, "GenerateSecretString", "PasswordLength") != "48" || r["Condition"] == nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	for f, p := range x.functions() {
		for k, v := range at2(at(p, "Environment", "Variables")) {
			if strings.Contains(fmt.Sprint(v), "resolve:") {
				t.Errorf("%s: %s has a secret in it", f, k)
			}
		}
	}
}

// What is streamed to notify is tried alone when it fails, and put aside, encrypted, when it keeps failing.
func TestStreams(t *testing.T) {
	x := open(t)
	for f, p := range x.functions() {
		for name, e := range at2(at(p, "Events")) {
			switch q := at(e, "Properties"); at(e, "Type") {
			case "Schedule":
				if want := map[string]string{"copies": "rate(5 minutes)"}; at(q, "Schedule") != cmp.Or(want[f], "rate(1 minute)") {
					t.Errorf("%s %s: %v", f, name, q)
				}
			case "DynamoDB":
				if f != "notify" || at(q, "BisectBatchOnFunctionError") != "true" || show(at(q, "DestinationConfig", "OnFailure", "Destination")) != "NotifyDeadLetters.Arn" ||
					!slices.Contains(list(at(q, "FunctionResponseTypes")), any("ReportBatchItemFailures")) || at(q, "MaximumRetryAttempts") == nil || at(q, "MaximumRecordAgeInSeconds") == nil {
					t.Errorf("%s %s: %v", f, name, q)
				}
			default:
				t.Errorf("%s %s: a %v", f, name, at(e, "Type"))
			}
		}
	}
	for name, r := range x.of("AWS::SQS::Queue") {
		if at(r, "Properties", "SqsManagedSseEnabled") != "true" || at(r, "Properties", "MessageRetentionPeriod") != "1209600" {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// at2 is a mapping, empty where there is none.
func at2(v any) node { m, _ := v.(node); return m }

// Combinations that no pattern sees are refused by rules, with a sentence.
func TestRulesRefuseWithASentence(t *testing.T) {
	rules := at2(load(t, "tunnel.yaml")["Rules"])
	maps.Copy(rules, at2(open(t).node["Rules"]))
	for _, want := range []string{"CertificateBelongsToAName", "FirewallNeedsTheDistribution", "MailHasASender", "MailHasARecipient", "SmtpUserHasAPassword", "ConsoleAndCommandLineAreTwoClients"} {
		if rules[want] == nil {
			t.Errorf("no rule %s", want)
		}
	}
	for name, r := range rules {
		for _, a := range list(at(r, "Assertions")) {
			if s, _ := at(a, "AssertDescription").(string); len(s) < 40 || !strings.HasSuffix(s, ".") {
				t.Errorf("%s: refuses with %q", name, s)
			}
		}
	}
}

// The functions' own figures: name, and who counts it.
var figures = map[telemetry.Figure]string{telemetry.Decisions: "DecideFunction", telemetry.Denials: "DecideFunction", telemetry.HeldCommands: "DecideFunction",
	telemetry.ApprovalsPending: "NotifyFunction", telemetry.OldestApprovalSeconds: "NotifyFunction", telemetry.DeliveriesFailed: "NotifyFunction",
	telemetry.CheckpointAgeSeconds: "SealFunction", telemetry.SpoolBytes: "ChangesFunction", telemetry.SpoolOldestSeconds: "ChangesFunction"}

func TestAlarmsOnTheFunctionsOwnFigures(t *testing.T) {
	x := open(t)
	watched := map[telemetry.Figure]bool{}
	for name, r := range x.of("AWS::CloudWatch::Alarm") {
		p := r["Properties"]
		if at(p, "Namespace") != "Sallyport" {
			continue
		}
		metric := telemetry.Figure(show(at(p, "MetricName")))
		watched[metric] = true
		d := list(at(p, "Dimensions"))
		if len(d) != 1 || at(d[0], "Name") != "Function" || show(at(d[0], "Value")) != figures[metric] {
			t.Errorf("%s: %s by %v, want %s", name, metric, d, figures[metric])
		}
	}
	for _, m := range []telemetry.Figure{telemetry.Denials, telemetry.OldestApprovalSeconds, telemetry.DeliveriesFailed, telemetry.CheckpointAgeSeconds, telemetry.SpoolOldestSeconds} {
		if !watched[m] {
			t.Errorf("no alarm on %s", m)
		}
	}
	board := fmt.Sprint(at(x.node, "Resources", "Dashboard", "Properties", "DashboardBody"))
	for m := range figures {
		if !strings.Contains(board, `"`+string(m)+`"`) {
			t.Errorf("the dashboard does not show %s", m)
		}
	}
}
