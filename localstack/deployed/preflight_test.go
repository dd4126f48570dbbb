package deployed

import (
	"strings"
	"testing"
)

// What CloudFormation would refuse does not come to a local AWS, which would take it.
func TestDeployRefuses(t *testing.T) {
	parameters := map[string]string{"Relays": "127.0.0.1:1", "OidcIssuer": "http://127.0.0.1:1", "OidcClientId": "cli", "OidcConsoleClientId": "cli"}
	err := cloud{root: "../.."}.deploy(t.Context(), parameters) // there is nothing to deploy to
	if err == nil || !strings.Contains(err.Error(), "OidcClientId and OidcConsoleClientId are the same") {
		t.Error(err)
	}
}
