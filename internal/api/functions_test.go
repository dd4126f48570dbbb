package api_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/api"
)

func TestFunctionOf(t *testing.T) {
	for path, want := range map[string]string{
		api.PathDiscovery: "", api.PathJWKS: "", api.PathToken: "", api.PathRenew: "", api.PathTicket: "", api.PathRevoke: "", api.PathWhoami: "", "/": "", "": "",
		api.PathOpen: "decide", api.PathCheck: "decide", api.PathClaim: "decide", api.PathClose: "decide", api.PathCan: "decide",
		api.PathChanges: "changes", api.PathRecord: "record", api.PathJoin: "enroll", api.PathEnroll: "enroll", api.PathRecertify: "enroll",
		api.PathApprovals + "?status=pending": "approve", api.PathApprovals + "/01ABC": "approve", api.PathSessions + "?limit=3": "approve",
		api.PathSessions + "/01ABC": "approve", api.PathActors: "approve", api.PathActors + "s": "", api.PathApprovals + "x/y": "",
	} {
		if got := api.FunctionOf(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
