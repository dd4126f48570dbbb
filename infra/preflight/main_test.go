package main

import (
	"strings"
	"testing"
)

func TestPreflight(t *testing.T) {
	good := `{"Relays":"r.example.com:443","OidcIssuer":"https://idp.example.com","OidcClientId":"cli","OidcConsoleClientId":"console"}`
	for _, c := range []struct{ args, in, says string }{
		{"-template ../template.yaml -", good, ""},
		{"-template ../template.yaml - MailTo=a@b.example", good, "MailTo is given and MailFrom is not; a mail needs a sender."},
		{"-template ../template.yaml Relays=x", "", "Relays is a list of host:port"},
		{"-template ../template.yaml -", "{", "read parameters"},
		{"-template ../template.yaml Relays", "", "is not PARAMETER=VALUE"},
		{"-template nosuch.yaml", "", "nosuch.yaml"},
		{"-template ../../samconfig.toml", "", "read template"},
		{"-nosuch", "", "nosuch"},
	} {
		err := run(strings.Fields(c.args), strings.NewReader(c.in))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}
