package infra

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unreachable are the functions without a URL. agentsOnly are those that agents call, whose URLs a parameter leaves to AWS identities (what a
// person asks decide is then refused, as the parameter says); enroll is a person's too.
var (
	unreachable = []string{"seal", "notify", "copies"}
	agentsOnly  = []string{"decide", "changes", "record"}
)

func TestFunctions(t *testing.T) {
	x := open(t)
	dirs, err := filepath.Glob("../functions/*/lambda")
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, d := range dirs {
		made = append(made, filepath.Base(filepath.Dir(d)))
	}
	global := at(x.node, "Globals", "Function")
	for _, want := range [][2]string{{"Runtime", "provided.al2023"}, {"Handler", "bootstrap"}} {
		if got := at(global, want[0]); got != want[1] {
			t.Errorf("Globals: %s is %v, want %s", want[0], got, want[1])
		}
	}
	functions := x.functions()
	for _, f := range made {
		if functions[f] == nil {
			t.Errorf("functions/%s is not in the template", f)
		}
	}
	if !strings.Contains(fmt.Sprint(at(global, "Architectures")), "Ref:Arch") || at(x.node, "Parameters", "Arch", "Default") != "arm64" {
		t.Error("the architecture is not the parameter Arch, arm64 by default")
	}
	roles := map[string]bool{}
	for f, p := range functions {
		if !slices.Contains(made, f) {
			t.Errorf("the template has %s, which functions/ has not", f)
		}
		if p["CodeUri"] != "../dist/functions/"+f+"/" {
			t.Errorf("%s: code from %v", f, p["CodeUri"])
		}
		role := show(p["Role"])
		if role != title(f)+"Role.Arn" || roles[role] {
			t.Errorf("%s: role %s is not its own", f, role)
		}
		roles[role] = true
		if logs := show(at(p, "LoggingConfig", "LogGroup")); logs != title(f)+"Logs" {
			t.Errorf("%s: logs to %s", f, logs)
		}
		if c := fmt.Sprint(p["ReservedConcurrentExecutions"]); !strings.Contains(c, title(f)+"Concurrency") {
			t.Errorf("%s: concurrency %s is not its parameter", f, c)
		}
		// What nobody waits for is not tried again for hours: the next minute comes by itself.
		if once := p["EventInvokeConfig"]; (once != nil) != slices.Contains(unreachable, f) || once != nil && fmt.Sprint(at(once, "MaximumRetryAttempts")) != "0" {
			t.Errorf("%s: asynchronous calls are tried again: %v", f, once)
		}
		if p["Policies"] != nil || p["VpcConfig"] != nil {
			t.Errorf("%s: takes policies from elsewhere, or sits in a network", f)
		}
		url, auth := p["FunctionUrlConfig"], "NONE"
		if slices.Contains(agentsOnly, f) {
			auth = "map[Fn::If:[HasOnlyAwsAgents AWS_IAM NONE]]"
		}
		if (url == nil) != slices.Contains(unreachable, f) || url != nil && (fmt.Sprint(at(url, "AuthType")) != auth || at(url, "InvokeMode") != "BUFFERED" || at(url, "Cors") != nil) {
			t.Errorf("%s: function URL %v", f, url)
		}
		if strings.Contains(fmt.Sprint(p["Environment"], at(global, "Environment")), title(f)+"FunctionUrl") {
			t.Errorf("%s: its environment has its own URL, which is a cycle", f)
		}
	}
	for name, r := range x.of("AWS::IAM::Role") {
		if !roles[name+".Arn"] {
			t.Errorf("%s is nobody's", name)
		}
		if b := fmt.Sprint(at(r, "Properties", "PermissionsBoundary")); !strings.Contains(b, "PermissionsBoundaryArn") {
			t.Errorf("%s: its boundary is %s", name, b)
		}
		trust := at(r, "Properties", "AssumeRolePolicyDocument", "Statement")
		if s := list(trust); len(s) != 1 || at(s[0], "Principal", "Service") != "lambda.amazonaws.com" || at(s[0], "Action") != "sts:AssumeRole" {
			t.Errorf("%s: trusts %v", name, trust)
		}
		if at(r, "Properties", "ManagedPolicyArns") != nil || at(r, "Properties", "RoleName") != nil {
			t.Errorf("%s: has managed policies or a name of its own", name)
		}
	}
}

func TestTables(t *testing.T) {
	tables := open(t).of("AWS::DynamoDB::Table")
	if len(tables) != 4 {
		t.Errorf("%d tables, want four", len(tables))
	}
	for name, r := range tables {
		p := r["Properties"]
		for path, want := range map[string]string{
			"BillingMode": "PAY_PER_REQUEST", "PointInTimeRecoverySpecification.PointInTimeRecoveryEnabled": "true",
			"SSESpecification.SSEEnabled": "true", "SSESpecification.SSEType": "KMS",
		} {
			if got := at(p, strings.Split(path, ".")...); got != want {
				t.Errorf("%s: %s is %v, want %s", name, path, got, want)
			}
		}
		if show(at(p, "DeletionProtectionEnabled")) != "DeletionProtection" {
			t.Errorf("%s: deletion protection is not the parameter", name)
		}
		ttl, stream := at(p, "TimeToLiveSpecification"), at(p, "StreamSpecification", "StreamViewType")
		if (name == "AuditTable") != (ttl == nil) || (name == "ApprovalsTable") != (stream == "KEYS_ONLY") {
			t.Errorf("%s: TTL %v, stream %v: entries never expire, and only keys of approvals are streamed", name, ttl, stream)
		}
		if policy := list(at(p, "ResourcePolicy", "PolicyDocument", "Statement")); (name == "AuditTable") != (len(policy) == 1) {
			t.Errorf("%s: resource policy %v", name, policy)
		} else if len(policy) == 1 && (at(policy[0], "Effect") != "Deny" || at(policy[0], "Principal") != "*" ||
			!contains(list(at(policy[0], "Action")), "dynamodb:DeleteItem", "dynamodb:UpdateItem", "dynamodb:BatchWriteItem", "dynamodb:PartiQLDelete", "dynamodb:PartiQLUpdate")) {
			t.Errorf("%s: entries may be changed or removed: %v", name, policy)
		}
		if ttl != nil && (at(ttl, "AttributeName") != "expires" || at(ttl, "Enabled") != "true") {
			t.Errorf("%s: TTL %v", name, ttl)
		}
		if at(p, "GlobalSecondaryIndexes") != nil || at(p, "TableName") != nil {
			t.Errorf("%s: has an index or a name of its own", name)
		}
		retained(t, name, r)
	}
}

func contains(have []any, want ...any) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// retained says that a stack's deletion or a replacement leaves the resource.
func retained(t *testing.T, name string, r node) {
	t.Helper()
	if r["DeletionPolicy"] != "Retain" || r["UpdateReplacePolicy"] != "Retain" {
		t.Errorf("%s is not retained", name)
	}
}

func TestBuckets(t *testing.T) {
	x := open(t)
	for name, r := range x.of("AWS::S3::Bucket") {
		p := r["Properties"]
		for _, b := range []string{"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"} {
			if at(p, "PublicAccessBlockConfiguration", b) != "true" {
				t.Errorf("%s: %s is not set", name, b)
			}
		}
		// What is derived can be erased for good; nothing else can, unseen.
		if derived := name == "CopiesBucket"; derived != (at(p, "VersioningConfiguration") == nil) || derived && at(p, "ObjectLockEnabled") != nil || !derived && at(p, "VersioningConfiguration", "Status") != "Enabled" {
			t.Errorf("%s: versions %v, lock %v", name, at(p, "VersioningConfiguration"), at(p, "ObjectLockEnabled"))
		}
		if at(p, "BucketEncryption") == nil || !strings.Contains(fmt.Sprint(at(p, "OwnershipControls")), "BucketOwnerEnforced") {
			t.Errorf("%s: not encrypted, or with ACLs", name)
		}
		if at(p, "BucketName") != nil || at(p, "WebsiteConfiguration") != nil || at(p, "AccessControl") != nil {
			t.Errorf("%s: has a name of its own, a website or an ACL", name)
		}
		retained(t, name, r)
		policy := at(x.node, "Resources", strings.TrimSuffix(name, "Bucket")+"Policy", "Properties")
		if show(at(policy, "Bucket")) != name {
			t.Fatalf("%s has no policy", name)
		}
		denies := map[string]node{}
		for _, s := range list(at(policy, "PolicyDocument", "Statement")) {
			if at(s, "Effect") != "Deny" || at(s, "Principal") != "*" {
				t.Errorf("%s: statement %v is not a deny for everybody", name, at(s, "Sid"))
			}
			denies[show(at(s, "Sid"))] = s.(node)
		}
		if at(denies["TlsOnly"], "Condition", "Bool", "aws:SecureTransport") != "false" || len(list(denies["TlsOnly"]["Resource"])) != 2 {
			t.Errorf("%s: plain HTTP is not denied", name)
		}
		if at(denies["CreateOnly"], "Condition", "Null", "s3:if-none-match") != "true" || at(denies["CreateOnly"], "Action") != "s3:PutObject" {
			t.Errorf("%s: objects may be overwritten", name)
		}
		if swap := denies["CursorOnlyByCompareAndSwap"]; name == "CopiesBucket" && (at(swap, "Condition", "Null", "s3:if-match") != "true" || at(swap, "Condition", "Null", "s3:if-none-match") != "true" ||
			show(at(swap, "Resource")) != show(at(denies["CreateOnly"], "NotResource"))) {
			t.Errorf("%s: the cursor may be replaced blindly", name)
		}
		if name != "EvidenceBucket" {
			continue
		}
		if at(p, "ObjectLockEnabled") != "true" || show(at(p, "ObjectLockConfiguration", "Rule", "DefaultRetention", "Mode")) != "EvidenceLockMode" ||
			show(at(p, "ObjectLockConfiguration", "Rule", "DefaultRetention", "Days")) != "EvidenceLockDays" {
			t.Errorf("%s is not locked by the parameters", name)
		}
		if at(denies["NobodyLiftsTheLock"], "Action") != "s3:BypassGovernanceRetention" {
			t.Errorf("%s: the lock may be lifted", name)
		}
		swap := denies["CheckpointOnlyByCompareAndSwap"]
		if at(swap, "Condition", "Null", "s3:if-match") != "true" || at(swap, "Condition", "Null", "s3:if-none-match") != "true" ||
			show(at(swap, "Resource")) != show(at(denies["CreateOnly"], "NotResource")) {
			t.Errorf("%s: the checkpoint may be replaced blindly", name)
		}
	}
}

func TestKeys(t *testing.T) {
	for name, r := range open(t).of("AWS::KMS::Key") {
		p := r["Properties"]
		if name == "StateKey" {
			if at(p, "EnableKeyRotation") != "true" || at(p, "KeySpec") != nil {
				t.Errorf("%s: not a symmetric key that is rotated", name)
			}
		} else if at(p, "KeySpec") != "ECC_NIST_P256" || at(p, "KeyUsage") != "SIGN_VERIFY" {
			t.Errorf("%s: does not sign on P-256", name)
		}
		retained(t, name, r)
		for _, s := range list(at(p, "KeyPolicy", "Statement")) {
			if who := show(at(s, "Principal", "AWS")); who != "arn:AWS::Partition:iam::AWS::AccountId:root" {
				t.Errorf("%s: is for %s", name, who)
			}
		}
	}
}

func TestLogsAreKeptForTheParameter(t *testing.T) {
	groups := open(t).of("AWS::Logs::LogGroup")
	if len(groups) != len(open(t).functions()) {
		t.Errorf("%d log groups", len(groups))
	}
	for name, r := range groups {
		if show(at(r, "Properties", "RetentionInDays")) != "LogRetentionDays" {
			t.Errorf("%s: retention %v", name, at(r, "Properties", "RetentionInDays"))
		}
	}
}

// Nothing else can be reached from outside: no other kind of resource than these is in the template at all.
func TestNothingElseIsThere(t *testing.T) {
	kinds := map[string]bool{}
	for _, k := range []string{"Serverless::Function", "IAM::Role", "Logs::LogGroup", "DynamoDB::Table", "S3::Bucket", "S3::BucketPolicy", "KMS::Key", "SQS::Queue", "SQS::QueuePolicy",
		"CloudWatch::Alarm", "CloudWatch::Dashboard", "SecretsManager::Secret", "CloudFront::Distribution", "Lambda::Alias", "Lambda::Url", "Lambda::Permission",
		"IAM::ManagedPolicy"} {
		kinds["AWS::"+k] = true
	}
	for name, r := range open(t).node["Resources"].(node) {
		if kind := fmt.Sprint(at(r, "Type")); !kinds[kind] {
			t.Errorf("%s is a %s: say here why it is not public", name, kind)
		}
	}
}

func TestAlarms(t *testing.T) {
	x := open(t)
	alarms := x.of("AWS::CloudWatch::Alarm")
	for f := range x.functions() {
		for _, what := range []string{"Errors", "Throttles"} {
			if alarms[title(f)+what+"Alarm"] == nil {
				t.Errorf("%s: no alarm on %s", f, what)
			}
		}
	}
	for name, r := range alarms {
		told := func(when string) bool {
			return strings.Contains(fmt.Sprint(at(r, "Properties", when)), "AlarmTopicArn")
		}
		if !told("AlarmActions") || !told("OKActions") || len(fmt.Sprint(at(r, "Properties", "AlarmDescription"))) < 20 {
			t.Errorf("%s tells nobody, or not what it means", name)
		}
	}
}

func TestParametersRefuseWithASentence(t *testing.T) {
	parameters := node{}
	for _, file := range []string{"athena.yaml", "tunnel.yaml", "template.yaml"} {
		for name, p := range load(t, file)["Parameters"].(node) {
			if other := parameters[name]; other != nil && at(other, "AllowedPattern") != at(p, "AllowedPattern") {
				t.Errorf("%s takes something else in %s", name, file)
			}
			parameters[name] = p
		}
	}
	for name, p := range parameters {
		pattern, limited := at(p, "AllowedPattern"), at(p, "MinValue") != nil
		if at(p, "Description") == nil {
			t.Errorf("%s has no description", name)
		}
		if pattern == nil && !limited && at(p, "AllowedValues") == nil {
			t.Errorf("%s takes anything", name)
		}
		if s, _ := at(p, "ConstraintDescription").(string); (pattern != nil || limited) && (!strings.Contains(s, name) || !strings.HasSuffix(strings.TrimSpace(s), ".")) {
			t.Errorf("%s: refuses with %q, which is no sentence that names it", name, s)
		}
		if pattern == nil {
			continue
		}
		// CloudFormation's patterns are anchored.
		re := regexp.MustCompile("^(?:" + pattern.(string) + ")$")
		if d, ok := at(p, "Default").(string); ok && !re.MatchString(d) {
			t.Errorf("%s: its default %q is refused", name, d)
		}
		good, bad := samples[name].good, samples[name].bad
		if len(good) == 0 || len(bad) == 0 {
			t.Errorf("%s: no samples", name)
		}
		for _, s := range good {
			if !re.MatchString(s) {
				t.Errorf("%s: refuses %q", name, s)
			}
		}
		for _, s := range bad {
			if re.MatchString(s) {
				t.Errorf("%s: takes %q", name, s)
			}
		}
	}
}

var samples = map[string]struct{ good, bad []string }{
	"PublicHost": {[]string{"", "sallyport.example.com", "127.0.0.1:8443"}, []string{"https://x.example", "X.example", "x.example/", "x.example:", "-x", "x y", "x.example."}},
	"Relays":     {[]string{"relay.example.com:443", "10.0.0.1:1,b.example:65535"}, []string{"", "relay", "relay.example.com", "a:1, b:1", "https://a:1", "a:1,", strings.Repeat("a:1,", 16) + "a:1"}},
	"OidcIssuer": {[]string{"https://idp.example.com", "https://idp.example.com/realms/a", "http://127.0.0.1:8080"},
		[]string{"", "idp.example.com", "http://idp.example.com", "https://", "https://idp.example.com?x", "http://127.0.0.1.example.com:80", "https://u@idp.example.com"}},
	"OidcClientId":        {[]string{"sallyport-cli", "0oa1"}, []string{"", "a b", "é"}},
	"OidcConsoleClientId": {[]string{"sallyport-console"}, []string{"", "a b"}},
	"LogName":             {[]string{"sallyport.example.com/audit", "x/a/b"}, []string{"", "audit", "Sallyport/audit", "x /audit", "x/audit\n"}},
	"EvidenceBucket":      {[]string{"sallyport-evidencebucket-1abc"}, []string{"", "ab", "A-bucket", "s3://bucket"}},
	"CopiesBucket":        {[]string{"sallyport-copiesbucket-1abc"}, []string{"", "ab", "A-bucket", "s3://bucket"}},
	"FirstDay":            {[]string{"2026-01-01", "2031-12-31"}, []string{"", "1999-01-01", "2026-1-1", "2026/01/01", "2026-41-01"}},
	"ResultsBucket":       {[]string{"answers"}, []string{"", "ab", "Answers"}},
	"VpcId":               {[]string{"vpc-0123456789abcdef0"}, []string{"", "vpc", "subnet-0123456789abcdef0"}},
	"RelaySubnets":        {[]string{"subnet-0123456789abcdef0"}, []string{"", "vpc-0123456789abcdef0", "subnet-0123456789abcdef0,subnet-0123456789abcdef1"}}, // of a list, each
	"BalancerSubnets":     {[]string{"subnet-0123456789abcdef0"}, []string{"", "vpc-0123456789abcdef0"}},
	"AllowedCidr":         {[]string{"0.0.0.0/0", "203.0.113.0/24"}, []string{"", "203.0.113.0", "203.0.113.0/33", "::/0"}},
	"Broker": {[]string{"https://sallyport.example.com/", "https://sallyport.example.com", "https://abc.lambda-url.eu-west-1.on.aws/"},
		[]string{"", "http://sallyport.example.com", "sallyport.example.com", "https://u@sallyport.example.com", "https://sallyport.example.com/\nlog: debug"}},
	"SecretArn": {[]string{"arn:aws:secretsmanager:eu-west-1:123456789012:secret:sallyport/relay-AbCdEf"},
		[]string{"", "sallyport/relay", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:sallyport/relay", "-----BEGIN EC PRIVATE KEY-----"}},
	"Repository":  {[]string{"sallyport-relay", "sallyport/relay"}, []string{"", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/sallyport:latest", "Sallyport"}},
	"ImageDigest": {[]string{"sha256:" + strings.Repeat("0f", 32)}, []string{"", "latest", "sha256:0f", strings.Repeat("0f", 32)}},
	"CertificateArn": {[]string{"", "arn:aws:acm:us-east-1:123456789012:certificate/12345678-90ab-cdef-1234-567890abcdef"},
		[]string{"x", "arn:aws:acm:eu-west-1:123456789012:certificate/12345678-90ab-cdef-1234-567890abcdef"}},
	"WebAclArn": {[]string{"", "arn:aws:wafv2:us-east-1:123456789012:global/webacl/front/12345678-90ab-cdef-1234-567890abcdef"},
		[]string{"x", "arn:aws:wafv2:eu-west-1:123456789012:regional/webacl/front/12345678-90ab-cdef-1234-567890abcdef"}},
	"OtlpEndpoint":   {[]string{"", "https://otel.example.com:4318", "http://127.0.0.1:4318"}, []string{"otel.example.com", "http://otel.example.com", "http://127.0.0.1.example.com"}},
	"MailFrom":       {[]string{"", "sallyport@example.com", "a.b+c@mail.example.org"}, []string{"x", "a@b", "A <a@example.com>", "a@example.com,b@example.com", "a@example.com\nBcc: b@example.com"}},
	"MailTo":         {[]string{"", "a@example.com", "a@example.com,b@example.org"}, []string{"a@example.com, b@example.org", "a@example.com,", "a", strings.Repeat("a@example.com,", 20) + "a@example.com"}},
	"SmtpServer":     {[]string{"", "mail.example.com:587"}, []string{"mail.example.com", "smtp://mail.example.com:587", "mail:x"}},
	"SmtpUser":       {[]string{"", "sallyport"}, []string{"a b", "é"}},
	"SmtpSecretName": {[]string{"", "sallyport/mail"}, []string{"a b", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:mail"}},
	"WebhookUrl":     {[]string{"", "https://hooks.example.com/services/T0/B0", "https://hooks.example.com:8443"}, []string{"http://hooks.example.com", "https://user@hooks.example.com/", "https://", "hooks.example.com", "https://hooks.example.com/a b"}},
	"PermissionsBoundaryArn": {[]string{"", "arn:aws:iam::123456789012:policy/boundary", "arn:aws-us-gov:iam::123456789012:policy/teams/data/boundary"},
		[]string{"boundary", "arn:aws:iam::123456789012:role/boundary", "arn:aws:iam::1:policy/boundary", "arn:aws:iam::123456789012:policy/"}},
	"AlarmTopicArn": {[]string{"", "arn:aws:sns:eu-west-1:123456789012:ops"}, []string{"ops", "arn:aws:sqs:eu-west-1:123456789012:ops", "arn:aws:sns:eu-west-1:1:ops"}},
}

// Outputs are what clients, agents, relays and auditors are configured from.
func TestOutputs(t *testing.T) {
	outputs := open(t).node["Outputs"].(node)
	for _, want := range []string{"Broker", "Console", "Issuer", "LogName", "TokenUrl", "DecideUrl", "ChangesUrl", "RecordUrl", "ApproveUrl", "EnrollUrl",
		"DecideIamUrl", "ChangesIamUrl", "RecordIamUrl", "EnrollIamUrl", "AgentPolicy", "FrontDomain", "WebhookSecret", "Dashboard",
		"GrantsTable", "ApprovalsTable", "RegistryTable", "AuditTable", "EvidenceBucket", "CopiesBucket", "BlobsBucket", "TokenKey", "CaKey", "CheckpointKey", "StateKey"} {
		if outputs[want] == nil {
			t.Errorf("no output %s", want)
		}
	}
}

func TestPatternsOfTheConfigurationFile(t *testing.T) {
	b, err := os.ReadFile("../samconfig.toml")
	if err != nil {
		t.Fatal(err)
	}
	parameters := open(t).node["Parameters"].(node)
	found := regexp.MustCompile(`"([A-Z][A-Za-z]+)=([^"]*)"`).FindAllStringSubmatch(string(b), -1)
	if len(found) == 0 {
		t.Fatal("samconfig.toml sets no parameter")
	}
	for _, m := range found {
		p := parameters[m[1]]
		if p == nil {
			t.Errorf("samconfig.toml sets %s, which the template has not", m[1])
		} else if strings.Contains(m[2], "…") {
			continue // an example for the reader to fill in
		} else if pattern, ok := at(p, "AllowedPattern").(string); ok && !regexp.MustCompile("^(?:"+pattern+")$").MatchString(m[2]) {
			t.Errorf("samconfig.toml: the template refuses %s=%s", m[1], m[2])
		}
	}
}
