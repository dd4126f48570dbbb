package infra

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// node is a mapping of the template; CloudFormation's short tags are read as their long forms.
type node = map[string]any

func load(t *testing.T, file string) node {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return plain(t, doc.Content[0]).(node)
}

// plain turns a YAML node into maps, lists and strings.
func plain(t *testing.T, n *yaml.Node) any {
	t.Helper()
	v := bare(t, n)
	if strings.HasPrefix(n.Tag, "!!") || !strings.HasPrefix(n.Tag, "!") {
		return v
	}
	name := strings.TrimPrefix(n.Tag, "!")
	if s, ok := v.(string); ok && name == "GetAtt" {
		resource, attribute, _ := strings.Cut(s, ".")
		v = []any{resource, attribute}
	}
	if name != "Ref" && name != "Condition" {
		name = "Fn::" + name
	}
	return node{name: v}
}

func bare(t *testing.T, n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := node{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := m[key]; twice {
				t.Errorf("line %d: key %q twice", n.Content[i].Line, key)
			}
			m[key] = plain(t, n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		l := []any{}
		for _, c := range n.Content {
			l = append(l, plain(t, c))
		}
		return l
	default:
		return n.Value
	}
}

// at walks down; a missing step gives nil.
func at(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(node)
		v = m[p]
	}
	return v
}

func list(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	default:
		return []any{v}
	}
}

// show writes a resource reference the way calls.tsv does.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case node:
		if g, ok := v["Fn::GetAtt"].([]any); ok {
			return fmt.Sprint(g[0], ".", g[1])
		}
		s, ok := v["Fn::Sub"].(string)
		if l, with := v["Fn::Sub"].([]any); with { // the text, and what its variables are
			s, ok = l[0].(string)
		}
		if ok {
			return regexp.MustCompile(`\$\{([A-Za-z.:]+)\}`).ReplaceAllString(s, "$1")
		}
		if s, ok := v["Ref"].(string); ok {
			return s
		}
	}
	return fmt.Sprint(v)
}

type template struct{ node }

func open(t *testing.T) template { return template{load(t, "template.yaml")} }

// of lists the resources of a type.
func (x template) of(kind string) map[string]node {
	found := map[string]node{}
	for name, r := range x.node["Resources"].(node) {
		if at(r, "Type") == kind {
			found[name] = r.(node)
		}
	}
	return found
}

// functions are the template's, by their directory.
func (x template) functions() map[string]node {
	found := map[string]node{}
	for name, f := range x.of("AWS::Serverless::Function") {
		found[strings.ToLower(strings.TrimSuffix(name, "Function"))] = f["Properties"].(node)
	}
	return found
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// right is one action on one resource, for one function.
type right struct{ function, action, resource string }

// given is what a value is when every condition holds.
func given(v any) any {
	if m, ok := v.(node); ok {
		if choice, ok := m["Fn::If"].([]any); ok && len(choice) == 3 {
			return given(choice[1])
		}
	}
	return v
}

// rights are what the roles give, those included that a parameter asks for.
func (x template) rights(t *testing.T) []right {
	var all []right
	for f := range x.functions() {
		role := title(f) + "Role"
		policies := list(at(x.node, "Resources", role, "Properties", "Policies"))
		if len(policies) != 1 {
			t.Errorf("%s: %d policies, want one", role, len(policies))
		}
		for _, p := range policies {
			for _, s := range list(at(p, "PolicyDocument", "Statement")) {
				s = given(s)
				if at(s, "Effect") != "Allow" || at(s, "NotAction") != nil || at(s, "NotResource") != nil {
					t.Errorf("%s: statement %v is not a plain Allow", role, at(s, "Sid"))
				}
				for _, a := range list(at(s, "Action")) {
					for _, r := range list(at(s, "Resource")) {
						all = append(all, right{f, a.(string), show(r)})
					}
				}
			}
		}
	}
	return all
}

// calls reads calls.tsv.
func calls(t *testing.T) map[right]bool {
	f, err := os.Open("calls.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	all := map[right]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		c := strings.Split(lines.Text(), "\t")
		if len(c) < 3 || len(c) > 4 || all[right{c[0], c[1], c[2]}] {
			t.Errorf("calls.tsv: %q is not three columns and a reason, or is there twice", lines.Text())
			continue
		}
		all[right{c[0], c[1], c[2]}] = true
	}
	return all
}

// platform is what Lambda does with a function's role: write its log, read its stream, put aside what it gave up.
func platform(f string) []right {
	logs := title(f) + "Logs.Arn"
	all := []right{{f, "logs:CreateLogStream", logs}, {f, "logs:PutLogEvents", logs}}
	switch f {
	case "seal":
		// Without it S3 answers 403 for a name that is not there, and seal asks for names that may not be.
		all = append(all, right{f, "s3:ListBucket", "EvidenceBucket.Arn"})
	case "copies": // the same, before the first checkpoint and the first copy
		all = append(all, right{f, "s3:ListBucket", "EvidenceBucket.Arn"}, right{f, "s3:ListBucket", "CopiesBucket.Arn"})
	case "notify":
		for _, a := range []string{"DescribeStream", "GetRecords", "GetShardIterator"} {
			all = append(all, right{f, "dynamodb:" + a, "ApprovalsTable.StreamArn"})
		}
		all = append(all, right{f, "dynamodb:ListStreams", "ApprovalsTable.Arn/stream/*"}, right{f, "sqs:SendMessage", "NotifyDeadLetters.Arn"})
	}
	return all
}

func TestEveryRightIsUsedAndEveryCallAllowed(t *testing.T) {
	x, called := open(t), calls(t)
	has := map[right]bool{}
	for _, r := range x.rights(t) {
		if has[r] {
			t.Errorf("%v is given twice", r)
		}
		has[r] = true
		if !called[r] && !slices.Contains(platform(r.function), r) {
			t.Errorf("nothing calls %v: take the right away", r)
		}
	}
	for r := range called {
		if !has[r] {
			t.Errorf("%v is called and not allowed", r)
		}
	}
	for f := range x.functions() {
		for _, r := range platform(f) {
			if !has[r] {
				t.Errorf("Lambda needs %v", r)
			}
		}
	}
}

func TestBoundaries(t *testing.T) {
	for _, r := range open(t).rights(t) {
		switch {
		case r.action == "kms:Sign" && r != right{"token", "kms:Sign", "TokenKey.Arn"} && r != right{"enroll", "kms:Sign", "CaKey.Arn"} && r != right{"seal", "kms:Sign", "CheckpointKey.Arn"}:
			t.Errorf("%v: each signing key has one user", r)
		case strings.HasPrefix(r.action, "dynamodb:Delete") || strings.HasPrefix(r.action, "dynamodb:Update") || strings.HasPrefix(r.action, "dynamodb:Batch") || r.action == "dynamodb:Scan":
			t.Errorf("%v: items are put under conditions, and never deleted", r)
		case strings.HasPrefix(r.action, "s3:Delete") || strings.Contains(r.action, "Retention") || strings.Contains(r.action, "Bypass"):
			t.Errorf("%v: evidence is only added", r)
		case strings.HasPrefix(r.resource, "EvidenceBucket") && r.function != "seal" && !besides(r):
			t.Errorf("%v: seal alone writes the log", r)
		case r.function == "copies" && !strings.HasPrefix(r.resource, "EvidenceBucket.Arn") && !strings.HasPrefix(r.resource, "CopiesBucket.Arn") && r.resource != "CopiesLogs.Arn",
			strings.HasPrefix(r.resource, "CopiesBucket.Arn") && r.function != "copies":
			t.Errorf("%v: copies goes from the log to its copies, knows no table and no key, and nobody else touches them", r)
		case strings.HasPrefix(r.action, "secretsmanager:") && r != right{"notify", r.action, "WebhookSecret"} && r != right{"notify", r.action, "arn:AWS::Partition:secretsmanager:AWS::Region:AWS::AccountId:secret:SmtpSecretName-??????"} && r != right{"token", r.action, "OriginSecret"} && r != right{"approve", r.action, "OriginSecret"}:
			t.Errorf("%v: is not its secret", r)
		case r.function == "notify" && strings.HasSuffix(r.resource, "Table.Arn") && r.resource != "ApprovalsTable.Arn":
			t.Errorf("%v: tells of approvals, and knows nothing else", r)
		case strings.HasPrefix(r.resource, "GrantsTable") && (r.function == "record" || r.function == "seal"):
			t.Errorf("%v: has no business with who may do what", r)
		case strings.HasPrefix(r.resource, "ApprovalsTable") && (r.function == "token" || r.function == "enroll" || r.function == "record" || r.function == "seal"):
			t.Errorf("%v: has no business with approvals", r)
		}
	}
}

// besides are the rights to what lies in the evidence's bucket beside the log.
func besides(r right) bool {
	switch r.resource {
	case "EvidenceBucket.Arn", "EvidenceBucket.Arn/entries/*", "EvidenceBucket.Arn/checkpoint":
		return r.function == "copies" && r.action != "s3:PutObject"
	case "EvidenceBucket.Arn/recordings/*":
		return r.function == "record" || r.function == "approve" && r.action == "s3:GetObject"
	case "EvidenceBucket.Arn/bodies/*":
		return r.function == "decide" || r.function == "approve" && r.action == "s3:GetObject"
	}
	return false
}

// wildcards is every place where a star may stand, and why.
var wildcards = map[string]string{
	"BlobsBucket.Arn/*":                       "a deny on every object",
	"BlobsBucket.Arn/bundles/*":               "objects have no other resource",
	"EvidenceBucket.Arn/*":                    "a deny on every object",
	"EvidenceBucket.Arn/recordings/*":         "objects have no other resource",
	"EvidenceBucket.Arn/entries/*":            "objects have no other resource",
	"EvidenceBucket.Arn/tile/*":               "objects have no other resource",
	"CopiesBucket.Arn/*":                      "a deny on every object",
	"CopiesBucket.Arn/entries/*":              "objects have no other resource",
	"EvidenceBucket.Arn/bodies/*":             "objects have no other resource",
	"BlobsBucket.Arn/uploads/*":               "objects have no other resource",
	"ApprovalsTable.Arn/stream/*":             "dynamodb:ListStreams knows no narrower resource",
	"AuditTable AppendOnly":                   "a deny; in a table's policy a star is this table",
	"BlobsPolicy TlsOnly s3:*":                "a deny",
	"CopiesPolicy TlsOnly s3:*":               "a deny",
	"EvidencePolicy TlsOnly s3:*":             "a deny",
	"NotifyDeadLettersPolicy TlsOnly sqs:*":   "a deny",
	"CaKey TheAccountsPoliciesDecide":         "in a key's policy a star is this key",
	"CheckpointKey TheAccountsPoliciesDecide": "in a key's policy a star is this key",
	"StateKey TheAccountsPoliciesDecide":      "in a key's policy a star is this key",
	"TokenKey TheAccountsPoliciesDecide":      "in a key's policy a star is this key",
}

func TestNoWildcardButThese(t *testing.T) {
	used := map[string]bool{}
	allow := func(where, what string) {
		for _, k := range []string{what, where, where + " " + what} {
			if _, ok := wildcards[k]; ok {
				used[k] = true
				return
			}
		}
		t.Errorf("%s: wildcard %q is on no list", where, what)
	}
	for name, r := range open(t).node["Resources"].(node) {
		for _, s := range statements(r) {
			where := name + " " + show(at(s, "Sid"))
			for _, key := range []string{"Action", "Resource", "NotResource"} {
				for _, v := range list(at(s, key)) {
					if strings.Contains(show(v), "*") {
						allow(where, show(v))
					}
				}
			}
			if strings.Contains(fmt.Sprint(at(s, "Principal")), "*") && at(s, "Effect") != "Deny" {
				t.Errorf("%s: everybody is allowed something", where)
			}
			if at(s, "NotPrincipal") != nil || at(s, "NotAction") != nil {
				t.Errorf("%s: says who or what is not meant", where)
			}
		}
	}
	for k := range wildcards {
		if !used[k] {
			t.Errorf("the list has %q, which is not in the template", k)
		}
	}
}

// statements are all policy statements below a value, wherever they stand.
func statements(v any) []node {
	var all []node
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			all = append(all, statements(e)...)
		}
	case node:
		for _, s := range list(v["Statement"]) {
			all = append(all, given(s).(node))
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k != "Statement" {
				all = append(all, statements(v[k])...)
			}
		}
	}
	return all
}
