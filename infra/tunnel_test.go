package infra

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func tunnel(t *testing.T) template { return template{load(t, "tunnel.yaml")} }

// properties are those of one resource of the tunnel's template.
func (x template) properties(name string) any { return at(x.node, "Resources", name, "Properties") }

// The relay calls nothing on AWS, and what starts it fetches one image and one secret.
func TestRelayRoles(t *testing.T) {
	x := tunnel(t)
	if p := x.properties("TaskRole"); at(p, "Policies") != nil || at(p, "ManagedPolicyArns") != nil {
		t.Errorf("the relay has rights: %v", p)
	}
	want := map[string]string{
		"logs:CreateLogStream": "Logs.Arn", "logs:PutLogEvents": "Logs.Arn", "secretsmanager:GetSecretValue": "SecretArn", "ecr:GetAuthorizationToken": "*",
	}
	for _, a := range []string{"BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer"} {
		want["ecr:"+a] = "arn:AWS::Partition:ecr:AWS::Region:AWS::AccountId:repository/Repository"
	}
	got := map[string]string{}
	for _, s := range statements(x.properties("ExecutionRole")) {
		if at(s, "Action") == "sts:AssumeRole" {
			continue
		}
		for _, a := range list(s["Action"]) {
			got[a.(string)] = show(s["Resource"])
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("starting a relay may %v, want %v", got, want)
	}
	for name, r := range x.of("AWS::IAM::Role") {
		trust := list(at(r, "Properties", "AssumeRolePolicyDocument", "Statement"))
		if len(trust) != 1 || at(trust[0], "Principal", "Service") != "ecs-tasks.amazonaws.com" || at(trust[0], "Condition") == nil || at(r, "Properties", "RoleName") != nil || at(r, "Properties", "ManagedPolicyArns") != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestRelayContainer(t *testing.T) {
	p := tunnel(t).properties("Task")
	containers := list(at(p, "ContainerDefinitions"))
	if len(containers) != 1 || at(p, "NetworkMode") != "awsvpc" || show(at(p, "TaskRoleArn")) != "TaskRole.Arn" || show(at(p, "ExecutionRoleArn")) != "ExecutionRole.Arn" {
		t.Fatalf("%v", p)
	}
	c := containers[0]
	if at(c, "User") != "65532:65532" || at(c, "ReadonlyRootFilesystem") != "true" || at(c, "Privileged") != "false" || at(c, "MountPoints") != nil ||
		!slices.Contains(list(at(c, "LinuxParameters", "Capabilities", "Drop")), any("ALL")) {
		t.Errorf("the relay is somebody, may write, or has capabilities: %v", c)
	}
	if !strings.HasSuffix(show(at(c, "Image")), "@ImageDigest") {
		t.Errorf("the image may change under its name: %v", at(c, "Image"))
	}
	if show(at(c, "LogConfiguration", "Options", "awslogs-group")) != "Logs" {
		t.Errorf("logs to %v", at(c, "LogConfiguration"))
	}
	secrets := map[string]bool{}
	for _, s := range list(at(c, "Secrets")) {
		if !strings.HasPrefix(show(at(s, "ValueFrom")), "SecretArn:") {
			t.Errorf("secret %v", s)
		}
		secrets[show(at(s, "Name"))] = true
	}
	environment := list(at(c, "Environment"))
	if len(environment) != 1 || !secrets["SALLYPORT_KEY"] {
		t.Fatalf("environment %v, secrets %v", environment, secrets)
	}
	// The configuration is one that the relay understands, and names as secrets what is handed over as such.
	var config map[string]any
	text := strings.NewReplacer("Epoch", "1").Replace(show(at(environment[0], "Value")))
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	source, err := os.ReadFile("../cmd/sallyport-relay/config.go")
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range config {
		if !strings.Contains(string(source), `yaml:"`+k+`"`) {
			t.Errorf("the relay does not know %s", k)
		}
		if name, ok := strings.CutPrefix(fmt.Sprint(v), "env:"); ok && !secrets[name] {
			t.Errorf("%s is taken from %s, which nobody sets", k, name)
		}
	}
	for _, k := range []string{"certificate", "key", "ca"} {
		if !strings.HasPrefix(fmt.Sprint(config[k]), "env:") {
			t.Errorf("%s is in the task definition", k)
		}
	}
}

// Whoever is on a relay that goes has time: the relay's drain, then its end by ECS, then the balancer's patience, each longer than the one before.
func TestDraining(t *testing.T) {
	x := tunnel(t)
	c := list(at(x.properties("Task"), "ContainerDefinitions"))[0]
	text := show(at(list(at(c, "Environment"))[0], "Value"))
	_, drain, _ := strings.Cut(text, "drain: ")
	drain, _, _ = strings.Cut(drain, "}")
	relay, err := time.ParseDuration(drain)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := strconv.Atoi(show(at(c, "StopTimeout")))
	if err != nil || time.Duration(stop)*time.Second < relay+10*time.Second || stop > 120 {
		t.Errorf("ECS kills after %d s, the relay drains for %v", stop, relay)
	}
	attributes := map[string]string{}
	for _, a := range list(at(x.properties("Relays"), "TargetGroupAttributes")) {
		attributes[show(at(a, "Key"))] = show(at(a, "Value"))
	}
	least, err := strconv.Atoi(show(at(x.node, "Parameters", "DrainSeconds", "MinValue")))
	if err != nil || attributes["deregistration_delay.timeout_seconds"] != "DrainSeconds" || attributes["deregistration_delay.connection_termination.enabled"] != "false" ||
		time.Duration(least)*time.Second < relay {
		t.Errorf("the balancer waits %v, %d at least", attributes, least)
	}
}

func TestRelayNetwork(t *testing.T) {
	x := tunnel(t)
	if at(x.properties("Listener"), "Protocol") != "TCP" || at(x.properties("Listener"), "Certificates") != nil || at(x.properties("Relays"), "Protocol") != "TCP" || at(x.properties("Relays"), "HealthCheckProtocol") != "TCP" {
		t.Error("the balancer ends TLS")
	}
	if at(x.properties("Balancer"), "Type") != "network" || len(list(at(x.properties("Balancer"), "SecurityGroups"))) != 1 {
		t.Error("the balancer lets everything in")
	}
	vpc := at(x.properties("Service"), "NetworkConfiguration", "AwsvpcConfiguration")
	if at(vpc, "AssignPublicIp") != "DISABLED" || show(at(vpc, "Subnets")) != "RelaySubnets" || at(x.properties("Service"), "EnableExecuteCommand") != "false" {
		t.Errorf("relays can be reached past the balancer: %v", vpc)
	}
	in := list(at(x.properties("BalancerGroup"), "SecurityGroupIngress"))
	if len(in) != 1 || show(at(in[0], "CidrIp")) != "AllowedCidr" || at(x.properties("RelayGroup"), "SecurityGroupIngress") != nil ||
		show(at(x.properties("RelayFromBalancer"), "SourceSecurityGroupId")) != "BalancerGroup.GroupId" || len(x.of("AWS::EC2::SecurityGroupIngress")) != 1 {
		t.Errorf("relays are reached by others: %v", in)
	}
	for _, g := range []string{"BalancerGroup", "RelayGroup"} {
		if out := list(at(x.properties(g), "SecurityGroupEgress")); len(out) != 1 || at(out[0], "IpProtocol") != "tcp" || at(out[0], "FromPort") != at(out[0], "ToPort") {
			t.Errorf("%s: out to %v", g, out)
		}
	}
}

func TestRelayAlarmsAndLogs(t *testing.T) {
	x := tunnel(t)
	alarms := x.of("AWS::CloudWatch::Alarm")
	if show(at(alarms["RelayCountAlarm"], "Properties", "Threshold")) != "MinRelays" || at(alarms["RelayCountAlarm"], "Properties", "TreatMissingData") != "breaching" {
		t.Errorf("no relay is no alarm: %v", alarms["RelayCountAlarm"])
	}
	for name, r := range alarms {
		if !strings.Contains(fmt.Sprint(at(r, "Properties", "AlarmActions")), "AlarmTopicArn") || len(show(at(r, "Properties", "AlarmDescription"))) < 20 {
			t.Errorf("%s tells nobody, or not what it means", name)
		}
	}
	for name, r := range x.of("AWS::Logs::LogGroup") {
		if show(at(r, "Properties", "RetentionInDays")) != "LogRetentionDays" {
			t.Errorf("%s is kept for ever", name)
		}
	}
	if p := x.properties("Scaling"); show(at(p, "MinCapacity")) != "MinRelays" || show(at(p, "MaxCapacity")) != "MaxRelays" {
		t.Errorf("scaling %v", p)
	}
}

// One port leads through: what the relay listens on is what its container, its target group, its health check and both security groups name.
func TestRelayPorts(t *testing.T) {
	x := tunnel(t)
	task := list(at(x.properties("Task"), "ContainerDefinitions"))[0]
	text := show(at(list(at(task, "Environment"))[0], "Value"))
	m := regexp.MustCompile(`listen: "?[^,:]*:([0-9]+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("the relay listens nowhere: %s", text)
	}
	mapped := list(at(task, "PortMappings"))
	if len(mapped) != 1 || show(at(mapped[0], "ContainerPort")) != m[1] || at(mapped[0], "Protocol") != "tcp" {
		t.Errorf("the container shows %v, the relay listens on %s", mapped, m[1])
	}
	out := list(at(x.properties("BalancerGroup"), "SecurityGroupEgress"))[0]
	in := x.properties("RelayFromBalancer")
	for what, port := range map[string]any{"target group": at(x.properties("Relays"), "Port"), "out of the balancer": at(out, "FromPort"), "into the relay": at(in, "FromPort"), "into the relay, to": at(in, "ToPort")} {
		if show(port) != m[1] {
			t.Errorf("%s: port %v, the relay listens on %s", what, port, m[1])
		}
	}
	if show(at(out, "DestinationSecurityGroupId")) != "RelayGroup.GroupId" || show(at(in, "GroupId")) != "RelayGroup.GroupId" {
		t.Errorf("the balancer reaches %v, relays let in by %v", out, in)
	}
	// The health check asks the port that traffic goes to, and nobody sets another.
	if p := at(x.properties("Relays"), "HealthCheckPort"); p != nil && p != "traffic-port" {
		t.Errorf("the health check asks %v", p)
	}
	open := list(at(x.properties("BalancerGroup"), "SecurityGroupIngress"))[0]
	if show(at(open, "FromPort")) != "Port" || show(at(open, "ToPort")) != "Port" || show(at(x.properties("Listener"), "Port")) != "Port" {
		t.Errorf("the listener is on %v, open is %v", at(x.properties("Listener"), "Port"), open)
	}
	behind := list(at(x.properties("Service"), "LoadBalancers"))
	if len(behind) != 1 || show(at(behind[0], "ContainerPort")) != m[1] || show(at(behind[0], "ContainerName")) != show(at(task, "Name")) || show(at(behind[0], "TargetGroupArn")) != "Relays" {
		t.Errorf("the service registers %v", behind)
	}
	if actions := list(at(x.properties("Listener"), "DefaultActions")); len(actions) != 1 || show(at(actions[0], "TargetGroupArn")) != "Relays" {
		t.Errorf("the listener goes to %v", actions)
	}
	grace, err := strconv.Atoi(show(at(x.properties("Service"), "HealthCheckGracePeriodSeconds")))
	if err != nil || grace < 30 {
		t.Errorf("a relay that begins is killed after %d s", grace)
	}
}
