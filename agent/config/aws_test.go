package config

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/protocol"
)

func TestAWSIdentity(t *testing.T) {
	const rest = "\nbroker: https://gate.example.com\nstate_dir: s\ntargets:\n  app: {protocol: postgres, address: \"127.0.0.1:5432\", user: app, password: {env: PW}, tls: {mode: disable}}\n"
	for aws, want := range map[string]string{"": "", "aws: {region: eu-west-1}": "eu-west-1", "aws: {region: us-gov-west-1}": "us-gov-west-1"} {
		c, err := Parse([]byte(aws+rest), "/etc", map[string]protocol.Settings{})
		if err != nil || c.AWSRegion != want {
			t.Errorf("%q: %q, %v", aws, c.AWSRegion, err)
		}
	}
	for _, aws := range []string{"aws: {}", "aws: {region: ''}", "aws: {region: 'eu-west-1.evil.example'}", "aws: {region: eu-west-1, key: AKID}", "aws: yes"} {
		if _, err := Parse([]byte(aws+rest), "/etc", map[string]protocol.Settings{}); err == nil || !strings.Contains(err.Error(), "aws") && !strings.Contains(err.Error(), "key") && !strings.Contains(err.Error(), "yaml") {
			t.Errorf("%q: %v", aws, err)
		}
	}
}
