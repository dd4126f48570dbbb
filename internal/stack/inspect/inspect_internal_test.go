package inspect

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/broker"
)

func TestAlarmsOfAnotherStackAreNotOurs(t *testing.T) {
	for name, want := range map[string]string{
		"sallyport-DecideErrorsAlarm-1A2B3C":      "DecideErrorsAlarm-1A2B3C",
		"sallyport-DecideErrorsAlarm":             "DecideErrorsAlarm",
		"sallyport-dev-DecideErrorsAlarm-1A2B3C":  "",
		"sallyport-relays-RelayCountAlarm-1A2B3C": "",
		"other-DecideErrorsAlarm-1A2B3C":          "",
		"sallyport-":                              "",
	} {
		if got := ownAlarm(&name, "sallyport-"); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if ownAlarm(nil, "") != "" {
		t.Error("an alarm without a name")
	}
}

// What a function tells a stranger depends on who is to reach it.
func TestStrangers(t *testing.T) {
	ours := func(status int) broker.Answer { return broker.Answer{Status: status, Code: "login"} }
	for name, tt := range map[string]struct {
		access, function string
		answer           broker.Answer
		err              error
		want             Status
		next             string
	}{
		"refused by us":                   {"keys", "decide", ours(401), nil, OK, ""},
		"refused by us, both doors":       {"both", "decide", ours(401), nil, OK, ""},
		"closed by AWS":                   {"aws", "decide", broker.Answer{Status: 403}, nil, OK, ""},
		"open, and should be closed":      {"aws", "record", ours(401), nil, Fail, "AWS_IAM"},
		"enroll stays open":               {"aws", "enroll", ours(401), nil, OK, ""},
		"closed by AWS, and should not":   {"keys", "decide", broker.Answer{Status: 403}, nil, Fail, "permissions for everybody"},
		"enroll closed by AWS":            {"aws", "enroll", broker.Answer{Status: 403}, nil, Fail, "permissions for everybody"},
		"it answers":                      {"aws", "decide", broker.Answer{Status: 200}, nil, Fail, "close it at once"},
		"throttled":                       {"keys", "decide", broker.Answer{Status: 429}, nil, Fail, "concurrency"},
		"it cannot start":                 {"keys", "decide", broker.Answer{Status: 502}, nil, Fail, "log"},
		"it cannot start, behind AWS_IAM": {"aws", "decide", broker.Answer{Status: 502}, nil, Fail, "log"},
		"it is not there":                 {"keys", "decide", broker.Answer{}, errors.New("no"), Fail, "log"},
	} {
		i := inspection{Config: Config{Deployment: Deployment{Parameters: map[string]string{"AgentAccess": tt.access}}}}
		i.stranger(tt.function, "/x", 401, tt.answer, tt.err)
		if c := i.checks[0]; c.Status != tt.want || !strings.Contains(c.Next, tt.next) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
