package refuse_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/infra/refuse"
)

func template(t testing.TB, file string) (*refuse.Template, []byte) {
	t.Helper()
	b, err := os.ReadFile("../" + file)
	if err != nil {
		t.Fatal(err)
	}
	x, err := refuse.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return x, b
}

// good is a stack that nothing refuses; a case changes it.
var good = map[string]map[string]string{
	"template.yaml": {"Relays": "relay.example.com:443", "OidcIssuer": "https://idp.example.com", "OidcClientId": "cli", "OidcConsoleClientId": "console"},
	"tunnel.yaml": {"VpcId": "vpc-0123456789abcdef0", "RelaySubnets": "subnet-01234567, subnet-89abcdef", "BalancerSubnets": "subnet-01234567", "Broker": "https://t.example.com/",
		"SecretArn":  "arn:aws:secretsmanager:eu-west-1:123456789012:secret:relay-AbCdEf",
		"Repository": "sallyport-relay", "ImageDigest": "sha256:" + strings.Repeat("0", 64)},
	"athena.yaml": {"CopiesBucket": "copies", "EvidenceBucket": "evidence", "ResultsBucket": "results"},
}

const (
	certificate = "arn:aws:acm:us-east-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef"
	firewall    = "arn:aws:wafv2:us-east-1:123456789012:global/webacl/one/01234567-89ab-cdef-0123-456789abcdef"
)

// Every rule of every template, with parameters that it takes and parameters that it refuses, and with which words.
func TestRules(t *testing.T) {
	refused := map[string]bool{}
	for _, c := range []struct {
		template, change, says string
	}{
		{"template.yaml", "", ""},
		{"template.yaml", "PublicHost=s.example.com CertificateArn=" + certificate, ""},
		{"template.yaml", "CertificateArn=" + certificate, "CertificateArn is given and PublicHost is not; the distribution needs the name that the certificate is for."},
		{"template.yaml", "PublicHost=s.example.com CertificateArn=" + certificate + " WebAclArn=" + firewall, ""},
		{"template.yaml", "PublicHost=s.example.com WebAclArn=" + firewall, "WebAclArn is given and CertificateArn is not"},
		{"template.yaml", "MailFrom=a@b.example MailTo=c@d.example", ""},
		{"template.yaml", "MailTo=c@d.example", "MailTo is given and MailFrom is not; a mail needs a sender."},
		{"template.yaml", "MailFrom=a@b.example", "MailFrom is given and MailTo is not; a mail needs somebody to go to."},
		{"template.yaml", "SmtpUser=u SmtpServer=m.example.com:587 SmtpSecretName=n", ""},
		{"template.yaml", "SmtpUser=u SmtpServer=m.example.com:587", "SmtpUser is given without SmtpServer or SmtpSecretName"},
		{"template.yaml", "SmtpUser=u SmtpSecretName=n", "SmtpUser is given without SmtpServer or SmtpSecretName"},
		{"template.yaml", "OidcConsoleClientId=cli", "OidcClientId and OidcConsoleClientId are the same"},
		{"tunnel.yaml", "", ""},
		{"tunnel.yaml", "Cpu=256 Memory=512", ""},
		{"tunnel.yaml", "Cpu=256 Memory=4096", "Fargate takes at most 2048 MiB of Memory with a Cpu of 256."},
		{"tunnel.yaml", "Cpu=512 Memory=512", "Fargate takes 1024 to 4096 MiB of Memory with a Cpu of 512."},
		{"tunnel.yaml", "Cpu=1024 Memory=2048", ""},
		{"tunnel.yaml", "Cpu=1024 Memory=1024", "Fargate takes 2048 to 8192 MiB of Memory with a Cpu of 1024."},
		{"tunnel.yaml", "Cpu=2048 Memory=8192", ""},
		{"tunnel.yaml", "Cpu=2048 Memory=2048", "Fargate takes 4096 MiB of Memory or more with a Cpu of 2048."},
		{"athena.yaml", "", ""},
		// Single parameters are refused by their own sentence, and before any rule.
		{"template.yaml", "Relays=relay.example.com", "Relays is a list of host:port, separated by commas without spaces, for example relay.example.com:443. It is \"relay.example.com\"."},
		{"template.yaml", "Epoch=0", "Epoch is a whole number from 1."},
		{"template.yaml", "Epoch=one", "Epoch is a whole number from 1."},
		{"template.yaml", "EvidenceLockDays=3651", "EvidenceLockDays is a whole number of days from 1 to 3650."},
		{"template.yaml", "EvidenceLockMode=NONE", "EvidenceLockMode is one of GOVERNANCE, COMPLIANCE. It is \"NONE\"."},
		{"template.yaml", "Arch=arm64\n", "Arch is one of arm64, x86_64."},
		{"template.yaml", "OidcIssuer=http://idp.example.com", "OidcIssuer is the identity provider's issuer exactly as in its ID tokens"},
		{"template.yaml", "Tables=4", "Tables is no parameter of the template."},
		{"template.yaml", "-Relays", "Relays is missing and has no default: Where clients and agents find the relays."},
		{"tunnel.yaml", "RelaySubnets=subnet-01234567,vpc-01234567", "RelaySubnets"},
		{"athena.yaml", "FirstDay=yesterday", "FirstDay is a day like 2026-01-01"},
	} {
		x, _ := template(t, c.template)
		given := maps.Clone(good[c.template])
		for change := range strings.SplitSeq(c.change, " ") {
			if name, gone := strings.CutPrefix(change, "-"); gone {
				delete(given, name)
			} else if k, v, ok := strings.Cut(change, "="); ok {
				given[k] = v
			}
		}
		said := x.Refused(given)
		if (c.says == "") != (len(said) == 0) || len(said) > 1 || len(said) == 1 && !strings.HasPrefix(said[0], c.says) {
			t.Errorf("%s %s: %q, want %q", c.template, c.change, said, c.says)
		}
		if err := x.Error("name", given); (err == nil) != (c.says == "") {
			t.Errorf("%s %s: %v", c.template, c.change, err)
		}
		for _, s := range said {
			refused[s] = true
		}
	}
	for file := range good {
		for _, s := range sentences(t, file) {
			if !refused[s] {
				t.Errorf("%s: nothing here is refused with %q", file, s)
			}
		}
	}
}

// sentences are those of a template's rules.
func sentences(t *testing.T, file string) (all []string) {
	t.Helper()
	_, b := template(t, file)
	var doc struct {
		Rules map[string]struct {
			Assertions []struct {
				AssertDescription string `yaml:"AssertDescription"`
			} `yaml:"Assertions"`
		} `yaml:"Rules"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	for _, r := range doc.Rules {
		for _, a := range r.Assertions {
			all = append(all, a.AssertDescription)
		}
	}
	return all
}

const small = `
Parameters:
  A: {Type: String, Default: ""}
  L: {Type: CommaDelimitedList, Default: "x, y"}
Rules:
  R:
    Assertions: [{AssertDescription: no., Assert: EXPRESSION}]
`

func TestFunctions(t *testing.T) {
	for expression, want := range map[string]bool{
		`!Equals [!Ref A, ""]`: true, `{"Fn::Equals": [{Ref: A}, ""]}`: true, `!Equals [!Ref A, b]`: false, `!Not [!Equals [!Ref A, ""]]`: false,
		`!And [!Equals [a, a], !Equals [b, b]]`: true, `!And [!Equals [a, a], !Equals [a, b]]`: false,
		`!Or [!Equals [a, b], !Equals [b, b]]`: true, `!Or [!Equals [a, b], !Equals [b, a]]`: false,
		`!Contains [[a, b], b]`: true, `!Contains [[a, b], c]`: false, `!Contains [!Ref L, y]`: true,
		`!EachMemberIn [!Ref L, [x, y, z]]`: true, `!EachMemberIn [!Ref L, [x]]`: false,
		`!EachMemberEquals [!Ref L, x]`: false, `!EachMemberEquals [[x, x], x]`: true, `!EachMemberEquals [[x], !Ref L]`: false,
		`!Equals [1, "1"]`: true,
	} {
		x, err := refuse.Read([]byte(strings.Replace(small, "EXPRESSION", expression, 1)))
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if got := len(x.Refused(nil)) == 0; got != want {
			t.Errorf("%s is %v", expression, got)
		}
	}
}

func TestTemplatesThatCannotBeEvaluated(t *testing.T) {
	for _, expression := range []string{`!If [a, b, c]`, `!Equals [a]`, `!Equals a`, `!Not [!Equals [a, a], !Equals [a, a]]`, `!And [!Equals [a, a]]`, `!Equals [!Ref Nosuch, a]`,
		`!Equals [!GetAtt A.B, a]`, `!Equals [[!Ref A], a]`, `!Equals ["Fn::RefAll": "AWS::EC2::VPC::Id", a]`, `yes`, `{a: b, c: d}`, `!Contains [!ValueOf [A, B], a]`} {
		if _, err := refuse.Read([]byte(strings.Replace(small, "EXPRESSION", expression, 1))); err == nil {
			t.Errorf("%s is taken", expression)
		}
	}
	for _, text := range []string{"", "[]", "Parameters: {A: {Type: Nosuch}}", "Parameters: {A: {Type: String, AllowedPattern: '('}}", "Parameters: {A: {Type: String}}\nRules: {R: {}}",
		"Parameters: {A: {Type: String}}\nRules: {R: {Assertions: [{Assert: !Equals [a, a]}]}}", "Parameters: {A: {Type: String}}\nRules: {R: {RuleCondition: x, Assertions: [{AssertDescription: s, Assert: !Equals [a, a]}]}}"} {
		if _, err := refuse.Read([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	// A secret is refused without being shown.
	x, err := refuse.Read([]byte("Parameters: {A: {Type: String, NoEcho: true, MinLength: 5, MaxLength: 6, ConstraintDescription: A is longer.}}"))
	if err != nil {
		t.Fatal(err)
	}
	if said := x.Refused(map[string]string{"A": "abc"}); !slices.Equal(said, []string{"A is longer. It is not shown."}) {
		t.Errorf("%q", said)
	}
	if said := x.Refused(map[string]string{"A": "abcde"}); len(said) > 0 || len(x.Refused(map[string]string{"A": "abcdefg"})) == 0 {
		t.Errorf("%q", said)
	}
}

func FuzzRead(f *testing.F) {
	_, b := template(f, "template.yaml")
	f.Add(b)
	f.Add([]byte(small))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if x, err := refuse.Read(b); err == nil {
			x.Refused(map[string]string{"A": "x"})
		}
	})
}
