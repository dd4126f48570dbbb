package measure

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sallyport/sallyport/internal/stack"
)

// Function is functions/decide as a Lambda function of its own, beside a place.
type Function struct {
	aws    aws.Config
	global bool // AWS itself: IAM has one address
	name   string
	place  *Place
}

// Report is what Lambda says of one call, in the last line of its log; what it does not say is 0.
type Report struct {
	Took       time.Duration // as this program saw it
	Duration   time.Duration
	Init       time.Duration // of a cold start
	MemoryUsed int64         // MB
}

// settle is how long a new role may take to be known everywhere.
const settle = 2 * time.Minute

// NewFunction makes a role that may do what decide does, on this place alone, a log group and the function; the place removes them.
func NewFunction(ctx context.Context, w *World, zip []byte, arch string, memory int) (*Function, error) {
	c, err := stack.Config(w.getenv, "LAMBDA")
	if err != nil {
		return nil, err
	}
	f := &Function{aws: c, global: c.BaseEndpoint == nil, name: w.place.Name, place: w.place}
	if err := f.logGroup(ctx); err != nil {
		return nil, err
	}
	role, err := f.role(ctx)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for k, v := range w.place.Vars {
		if k != "AWS_REGION" { // Lambda's own
			vars[k] = v
		}
	}
	if c.BaseEndpoint != nil {
		vars["AWS_ENDPOINT_URL"] = *c.BaseEndpoint
	}
	in, err := json.Marshal(map[string]any{"FunctionName": f.name, "Role": role, "Runtime": "provided.al2023", "Handler": "bootstrap", "Architectures": []string{arch},
		"MemorySize": memory, "Timeout": 15, "Code": map[string]any{"ZipFile": zip}, "Environment": map[string]any{"Variables": vars}})
	if err != nil {
		return nil, err
	}
	var other error // that no waiting helps against
	err = until(ctx, settle, func() error {
		err := f.json(ctx, http.MethodPost, "/2015-03-31/functions", in, nil)
		if err != nil && !strings.Contains(err.Error(), "cannot be assumed") {
			other, err = err, nil
		}
		return err
	})
	if err := cmp.Or(err, other); err != nil {
		return nil, err
	}
	f.place.made = append(f.place.made, func(ctx context.Context) error {
		return f.json(ctx, http.MethodDelete, "/2015-03-31/functions/"+f.name, nil, nil)
	})
	return f, f.ready(ctx)
}

// until tries again every second while there is an error, for a while.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func (f *Function) ready(ctx context.Context) error {
	return until(ctx, settle, func() error {
		var out struct{ State, LastUpdateStatus string }
		if err := f.json(ctx, http.MethodGet, "/2015-03-31/functions/"+f.name+"/configuration", nil, &out); err != nil {
			return err
		}
		if out.State != "Active" || out.LastUpdateStatus == "InProgress" {
			return fmt.Errorf("function %s is %s, %s", f.name, out.State, out.LastUpdateStatus)
		}
		return nil
	})
}

// Chill makes the next call a cold start: a function whose settings changed gets new processes.
func (f *Function) Chill(ctx context.Context, n int) error {
	in, err := json.Marshal(map[string]any{"Description": "cold start " + strconv.Itoa(n)})
	if err != nil {
		return err
	}
	if err := f.json(ctx, http.MethodPut, "/2015-03-31/functions/"+f.name+"/configuration", in, nil); err != nil {
		return err
	}
	return f.ready(ctx)
}

var reported = regexp.MustCompile(`(?:^|\t|\s)(Duration|Init Duration|Max Memory Used): ([0-9.]+) (?:ms|MB)`)

// Invoke is one call.
func (f *Function) Invoke(ctx context.Context, event []byte) ([]byte, Report, error) {
	begin := time.Now()
	body, header, err := f.call(ctx, "lambda", http.MethodPost, f.at("lambda")+"/2015-03-31/functions/"+f.name+"/invocations", event, http.Header{"X-Amz-Log-Type": {"Tail"}})
	r := Report{Took: time.Since(begin)}
	if err != nil {
		return nil, r, err
	}
	if header.Get("X-Amz-Function-Error") != "" {
		return nil, r, fmt.Errorf("the function failed: %s", body)
	}
	tail, _ := base64.StdEncoding.DecodeString(header.Get("X-Amz-Log-Result")) // where there is none, it says nothing
	_, line, _ := strings.Cut(string(tail), "REPORT RequestId:")
	for _, m := range reported.FindAllStringSubmatch(line, -1) {
		v, _ := strconv.ParseFloat(m[2], 64) // the expression takes numbers alone
		switch m[1] {
		case "Duration":
			r.Duration = time.Duration(v * float64(time.Millisecond))
		case "Init Duration":
			r.Init = time.Duration(v * float64(time.Millisecond))
		default:
			r.MemoryUsed = int64(v)
		}
	}
	return body, r, nil
}

func (f *Function) at(service string) string {
	switch {
	case f.aws.BaseEndpoint != nil:
		return strings.TrimSuffix(*f.aws.BaseEndpoint, "/")
	case service == "iam":
		return "https://iam.amazonaws.com"
	}
	return "https://" + service + "." + f.aws.Region + ".amazonaws.com"
}

func (f *Function) json(ctx context.Context, method, path string, in []byte, out any) error {
	b, _, err := f.call(ctx, "lambda", method, f.at("lambda")+path, in, http.Header{"Content-Type": {"application/json"}})
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// call is one signed request. These services are called by hand, a dozen times: two more of the SDK's modules are not worth it.
func (f *Function) call(ctx context.Context, service, method, at string, body []byte, header http.Header) ([]byte, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for k, v := range header {
		r.Header[k] = v
	}
	credentials, err := f.aws.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, nil, err
	}
	region := f.aws.Region
	if service == "iam" && f.global {
		region = "us-east-1"
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, credentials, r, hex.EncodeToString(sum[:]), service, region, time.Now()); err != nil {
		return nil, nil, err
	}
	resp, err := f.aws.HTTPClient.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read whole
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, r.URL.Path, resp.Status, bytes.TrimSpace(b[:min(len(b), 500)]))
	}
	return b, resp.Header, err
}

func (f *Function) logGroup(ctx context.Context) error {
	do := func(ctx context.Context, op string) error {
		in, err := json.Marshal(map[string]string{"logGroupName": "/aws/lambda/" + f.name})
		if err != nil {
			return err
		}
		_, _, err = f.call(ctx, "logs", http.MethodPost, f.at("logs")+"/", in, http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"Logs_20140328." + op}})
		return err
	}
	if err := do(ctx, "CreateLogGroup"); err != nil {
		return err
	}
	f.place.made = append(f.place.made, func(ctx context.Context) error { return do(ctx, "DeleteLogGroup") })
	return nil
}

func (f *Function) iam(ctx context.Context, action string, args map[string]string) ([]byte, error) {
	v := url.Values{"Action": {action}, "Version": {"2010-05-08"}, "RoleName": {f.name}}
	for k, a := range args {
		v.Set(k, a)
	}
	b, _, err := f.call(ctx, "iam", http.MethodPost, f.at("iam")+"/", []byte(v.Encode()), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
	return b, err
}

func (f *Function) role(ctx context.Context) (string, error) {
	b, err := f.iam(ctx, "CreateRole", map[string]string{"AssumeRolePolicyDocument": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}]}`})
	if err != nil {
		return "", err
	}
	f.place.made = append(f.place.made, func(ctx context.Context) error { _, err := f.iam(ctx, "DeleteRole", nil); return err })
	var out struct {
		ARN string `xml:"CreateRoleResult>Role>Arn"`
	}
	if err := xml.Unmarshal(b, &out); err != nil || out.ARN == "" {
		return "", fmt.Errorf("make role: no ARN in %s", b)
	}
	account := strings.Split(out.ARN, ":")[4]
	policy, err := json.Marshal(f.policy(account))
	if err != nil {
		return "", err
	}
	if _, err := f.iam(ctx, "PutRolePolicy", map[string]string{"PolicyName": "decide", "PolicyDocument": string(policy)}); err != nil {
		return "", err
	}
	f.place.made = append(f.place.made, func(ctx context.Context) error {
		_, err := f.iam(ctx, "DeleteRolePolicy", map[string]string{"PolicyName": "decide"})
		return err
	})
	return out.ARN, nil
}

// policy is what decide may do, on what this place has.
func (f *Function) policy(account string) any {
	arn := func(service, rest string) string {
		return "arn:aws:" + service + ":" + f.aws.Region + ":" + account + ":" + rest
	}
	allow := func(on []string, actions ...string) map[string]any {
		return map[string]any{"Effect": "Allow", "Action": actions, "Resource": on}
	}
	bucket, keys := "arn:aws:s3:::"+f.place.Vars[stack.BundleBucket], []string{}
	for k := range keySettings {
		keys = append(keys, arn("kms", "key/"+f.place.Vars[k]))
	}
	return map[string]any{"Version": "2012-10-17", "Statement": []any{
		allow([]string{arn("dynamodb", "table/"+f.name+"-*")}, "dynamodb:GetItem", "dynamodb:PutItem"),
		allow([]string{bucket + "/*"}, "s3:GetObject", "s3:PutObject"), allow([]string{bucket}, "s3:ListBucket"),
		allow(keys, "kms:GetPublicKey", "kms:Decrypt"),
		allow([]string{arn("logs", "log-group:/aws/lambda/"+f.name+":*")}, "logs:CreateLogStream", "logs:PutLogEvents"),
	}}
}
