package inspect

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/stack"
)

// Status of a check. The zero value is a failure.
type Status int

// The statuses, by how bad they are.
const (
	Fail Status = iota // something does not work, or is not kept
	Warn               // it works, and somebody should look
	OK
)

var words = map[Status]string{Fail: "fail", Warn: "warn", OK: "ok"}

func (s Status) String() string { return words[s] }

// MarshalText writes the status as people and programs read it.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Found  string `json:"found"`
	Next   string `json:"next,omitempty"` // what to do; always there when the status is not OK
}

// Report is what Run found.
type Report struct {
	Stack  string  `json:"stack"`
	OK     bool    `json:"ok"` // nothing failed
	Checks []Check `json:"checks"`
}

// Config says what to look at, all of it required but URL.
type Config struct {
	Deployment Deployment
	Getenv     func(string) string // credentials and region; see stack.Config
	// URL is the broker's, with its pin, where the stack's output Broker is not enough to reach it; "" takes the output.
	URL string
	// Relay connects to a relay as a client does, up to the point where a ticket is needed.
	Relay func(ctx context.Context, address string, ca *x509.CertPool) error
	// Now is this machine's clock.
	Now func() time.Time
}

// checkLimit is for one check: some make a dozen calls, each a fraction of a second, and a function may have to start.
const checkLimit = 20 * time.Second

// inspection is one run.
type inspection struct {
	Config
	out     map[string]string
	stack   *stack.Stack
	public  *broker.Public
	told    api.Discovery // zero until discovery answered
	ca      *x509.Certificate
	signers []*ecdsa.PublicKey // of JWKS
	checks  []Check
}

// Run looks at everything. What could not be looked at has failed.
func Run(ctx context.Context, c Config) Report {
	i := &inspection{Config: c, out: c.Deployment.Outputs, stack: stack.Open(stack.FromOutputs(c.Deployment.Outputs, c.Getenv))}
	for _, step := range []func(context.Context){
		i.theStack, i.discovery, i.clock, i.functions, i.keys, i.tables, i.lock, i.policy, i.checkpoint, i.alarms, i.relays,
	} {
		limited, cancel := context.WithTimeout(ctx, checkLimit)
		step(limited)
		cancel()
	}
	if i.public != nil {
		i.public.CloseIdle()
	}
	r := Report{Stack: c.Deployment.Name, OK: true, Checks: i.checks}
	for _, k := range r.Checks {
		r.OK = r.OK && k.Status != Fail
	}
	return r
}

func (i *inspection) add(name string, s Status, next, found string, args ...any) {
	c := Check{Name: name, Status: s, Found: fmt.Sprintf(found, args...)}
	if s != OK {
		c.Next = next
	}
	i.checks = append(i.checks, c)
}

// verdict adds a check that has failed when err is not nil.
func (i *inspection) verdict(name string, err error, next, found string, args ...any) {
	if err != nil {
		i.add(name, Fail, next, "%v", err)
		return
	}
	i.add(name, OK, "", found, args...)
}

// config is how to reach a service of AWS. Its errors were refused before: the stack was described with the same environment, or will be
// told by the first call.
func (i *inspection) config(service string) aws.Config {
	c, err := stack.Config(i.Getenv, service)
	if err != nil {
		c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, err })
		c.Region = "unset"
	}
	return c
}

func (i *inspection) theStack(context.Context) {
	d := i.Deployment
	if err := d.Usable(); err != nil {
		e := err.(*api.Error) //nolint:errorlint // Usable makes nothing else
		i.add("stack", Fail, e.Hint, "%s", e.Message)
		return
	}
	switch d.Status {
	case "CREATE_COMPLETE", "UPDATE_COMPLETE":
		i.add("stack", OK, "", "%s, release %d", d.Status, Release)
	case "UPDATE_ROLLBACK_COMPLETE":
		i.add("stack", Warn, "see what failed with `aws cloudformation describe-stack-events --stack-name "+d.Name+"`, and deploy again",
			"%s: the last deployment failed, what runs is the version before it", d.Status)
	case "UPDATE_ROLLBACK_FAILED":
		i.add("stack", Fail, "`aws cloudformation continue-update-rollback --stack-name "+d.Name+"`, then deploy again; `aws cloudformation describe-stack-events` says what could not be taken back",
			"%s: neither the last deployment nor the way back from it was made whole", d.Status)
	default:
		i.add("stack", Warn, "wait until it is done; if it stays so, `aws cloudformation describe-stack-events --stack-name "+d.Name+"`", "%s", d.Status)
	}
}

// unsigned are the calls that each function must refuse when nobody signs them, or that anybody may make.
var unsigned = []struct {
	function, method, path string
	status                 int
}{
	{"token", http.MethodGet, api.PathWhoami, http.StatusUnauthorized},
	{"decide", http.MethodPost, api.PathCheck, http.StatusUnauthorized},
	{"changes", http.MethodPost, api.PathChanges, http.StatusUnauthorized},
	{"record", http.MethodPost, api.PathRecord, http.StatusUnauthorized},
	{"enroll", http.MethodPost, api.PathJoin, http.StatusUnauthorized},
	{"approve", http.MethodGet, api.PathSessions, http.StatusUnauthorized},
}

// functions calls every function as a stranger.
func (i *inspection) functions(ctx context.Context) {
	if i.public == nil {
		return // discovery said why
	}
	for _, u := range unsigned {
		a, err := i.public.Unsigned(ctx, u.method, u.path)
		i.stranger(u.function, u.path, u.status, a, err)
	}
}

// stranger judges what a function told a stranger.
func (i *inspection) stranger(function, path string, want int, a broker.Answer, err error) {
	name := "function " + function
	shut := i.Deployment.Parameters["AgentAccess"] == "aws" && (function == "decide" || function == "changes" || function == "record")
	switch {
	case err != nil:
		i.add(name, Fail, "read its log (docs/runbooks/alarms.md); without it the gate is closed", "it does not answer: %v", err)
	case a.Status >= 200 && a.Status < 300:
		i.add(name, Fail, "close it at once (reserved concurrency 0), and deploy the functions of a release", "it ANSWERS %s without a signature, with status %d", path, a.Status)
	case shut && a.Status == http.StatusForbidden && a.Code == "":
		i.add(name, OK, "", "closed to who has no AWS identity, as AgentAccess=aws asks")
	case shut && a.Code != "":
		i.add(name, Fail, "deploy again: its URL must be of AuthType AWS_IAM", "it answers who has no AWS identity (status %d), though the stack has AgentAccess=aws", a.Status)
	case a.Status == want && a.Code != "":
		i.add(name, OK, "", "answers, and refuses who does not sign")
	case a.Status == http.StatusTooManyRequests:
		i.add(name, Fail, "raise its reserved concurrency, or find who floods it (docs/runbooks/alarms.md)", "it is throttled: status %d", a.Status)
	case a.Status == http.StatusForbidden && a.Code == "":
		i.add(name, Fail, "its permissions for everybody are gone (lambda:InvokeFunctionUrl and lambda:InvokeFunction), or its URL is another stack's: deploy again",
			"AWS refuses everybody: status %d", a.Status)
	default:
		i.add(name, Fail, "read its log (docs/runbooks/alarms.md): it starts with an error, or something else answers at its address; before `sallyport stack init` every function refuses",
			"status %d %s to a call without a signature, want %d", a.Status, a.Code, want)
	}
}

// Skew that is told: the broker takes command ids of within a minute, AWS takes signatures of within five.
const (
	skewWarn = 5 * time.Second
	skewFail = time.Minute
)

func (i *inspection) clock(ctx context.Context) {
	if i.public == nil {
		return
	}
	const next = "set this machine's clock (NTP): commands are refused whose time is a minute off, and AWS refuses signatures that are five minutes off"
	before := i.Now()
	a, err := i.public.Unsigned(ctx, http.MethodGet, api.PathWhoami)
	switch {
	case err != nil:
		i.add("clock", Fail, next, "%v", err)
		return
	case a.Date.IsZero():
		i.add("clock", Warn, "compare this machine's clock with another", "the broker's answers carry no date")
		return
	}
	middle := before.Add(i.Now().Sub(before) / 2)
	skew := middle.Sub(a.Date.Add(500 * time.Millisecond)) // a date is of whole seconds, cut
	switch {
	case skew.Abs() > skewFail:
		i.add("clock", Fail, next, "%s off the broker's", skew.Round(time.Second))
	case skew.Abs() > skewWarn:
		i.add("clock", Warn, next, "%s off the broker's", skew.Round(time.Second))
	default:
		i.add("clock", OK, "", "within %s of the broker's", skewWarn)
	}
}
