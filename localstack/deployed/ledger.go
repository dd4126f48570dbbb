package deployed

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
)

// Call is one AWS action that a function called, on a resource as infra/calls.tsv names it.
type Call struct{ Function, Action, Resource string }

// ledger stands between the functions and the local AWS and writes down what each of them calls. A function is known by its
// credentials, which MiniStack derives from the names of the function and its role.
type ledger struct {
	forward http.Handler

	mu        sync.Mutex
	functions map[string]string // access key id: function
	resources map[string]string // name of a table, bucket or key: as in calls.tsv
	calls     map[Call]int
	refused   []string
	faults    Faults
}

// Faults are what a local AWS does wrong on purpose. They are asked for every call of a function, and may be called at once.
type Faults struct {
	// Instead answers a call in AWS's place, with a status and the code of an error; 0 lets the call through. nil lets all through.
	Instead func(c Call) (status int, code string)
	// Done is told of a call that AWS has carried out, before the function hears of it. nil is told of none.
	Done func(c Call)
}

func newLedger(to *url.URL) *ledger {
	l := &ledger{functions: map[string]string{}, resources: map[string]string{}, calls: map[Call]int{}}
	l.forward = &httputil.ReverseProxy{
		ErrorLog: quiet(),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host                         // it is signed
			r.Out.Header.Set("X-Forwarded-Proto", "https") // as on AWS: bucket policies ask for it
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusBadRequest && strings.Contains(r.Header.Get("X-Amzn-Errortype"), "AccessDenied") {
				l.note(r.Request)
			}
			return nil
		},
	}
	return l
}

// credentials is the access key id that MiniStack gives a function.
func credentials(functionARN, roleARN string) string {
	h := sha256.Sum256([]byte(functionARN + ":" + roleARN))
	return "ASIA" + strings.ToUpper(hex.EncodeToString(h[:])[:16])
}

func (l *ledger) note(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = append(l.refused, fmt.Sprintf("%s: %s %s %s", l.functions[keyID(r)], r.Method, r.URL.Path, r.Header.Get("X-Amz-Target")))
}

// maxCall bounds what is read of a request to find the table or key that it names.
const maxCall = 32 << 20

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCall))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(strings.NewReader(string(b)))
	calls, faults := l.enter(r, b)
	for _, c := range calls {
		if faults.Instead == nil {
			break
		}
		if status, code := faults.Instead(c); status != 0 {
			fail(w, c, status, code)
			return
		}
	}
	l.forward.ServeHTTP(w, r)
	for _, c := range calls {
		if faults.Done != nil {
			faults.Done(c)
		}
	}
}

// fail answers as the service would that the call is for.
func fail(w http.ResponseWriter, c Call, status int, code string) {
	body := fmt.Sprintf(`{"__type":%q,"message":"on purpose"}`, code)
	if strings.HasPrefix(c.Action, "s3:") {
		body = "<Error><Code>" + code + "</Code><Message>on purpose</Message></Error>"
		w.Header().Set("Content-Type", "application/xml")
	} else {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.Header().Set("X-Amzn-Errortype", code)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// keyID is the access key id of a signed request.
func keyID(r *http.Request) string {
	_, id, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	id, _, _ = strings.Cut(id, "/")
	return id
}

// enter writes a function's call down, and returns it as it is called in calls.tsv.
func (l *ledger) enter(r *http.Request, body []byte) ([]Call, Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.functions[keyID(r)]
	if !ok {
		return nil, Faults{} // an operator's
	}
	all := actions(r, body)
	for i := range all {
		c := &all[i]
		c.Function = f
		name, rest, _ := strings.Cut(c.Resource, "/")
		if known, ok := l.resources[name]; ok {
			c.Resource = known
			if top, _, below := strings.Cut(rest, "/"); below {
				c.Resource += "/" + top + "/*"
			} else if rest != "" {
				c.Resource += "/" + rest
			}
		}
		l.calls[*c]++
	}
	return all, l.faults
}

// actions says which IAM actions a request needs, on which names.
func actions(r *http.Request, body []byte) []Call {
	service, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var in struct {
		TableName     string
		KeyID         string `json:"KeyId"`
		TransactItems []map[string]struct{ TableName string }
	}
	_ = json.Unmarshal(body, &in) // S3's bodies are not JSON
	switch {
	case strings.HasPrefix(service, "DynamoDB_") && operation == "TransactWriteItems":
		var all []Call
		for _, item := range in.TransactItems {
			for kind, on := range item {
				all = append(all, Call{Action: "dynamodb:" + map[string]string{"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}[kind], Resource: on.TableName})
			}
		}
		return all
	case strings.HasPrefix(service, "DynamoDB_"):
		return []Call{{Action: "dynamodb:" + operation, Resource: in.TableName}}
	case service == "TrentService":
		return []Call{{Action: "kms:" + operation, Resource: in.KeyID[strings.LastIndex(in.KeyID, "/")+1:]}}
	case service == "":
		path := strings.TrimPrefix(r.URL.Path, "/")
		bucket, object, _ := strings.Cut(path, "/")
		if object == "" {
			return []Call{{Action: "s3:ListBucket", Resource: bucket}}
		}
		return []Call{{Action: "s3:" + map[string]string{"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[r.Method] + "", Resource: path}}
	default:
		return []Call{{Action: service + ":" + operation}}
	}
}

// Calls are the calls so far, sorted.
func (l *ledger) all() []Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Call, 0, len(l.calls))
	for c := range l.calls {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Call) int { return strings.Compare(a.Line(), b.Line()) })
	return all
}

// Line is the call as infra/calls.tsv has it.
func (c Call) Line() string { return c.Function + "\t" + c.Action + "\t" + c.Resource }

// denials are the calls that the local AWS refused.
func (l *ledger) denials() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.refused)
}

// ReadCalls reads infra/calls.tsv: the calls, and whether a story must meet them.
func ReadCalls(path string) (map[Call]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	must := map[Call]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if c := strings.Split(lines.Text(), "\t"); !strings.HasPrefix(lines.Text(), "#") && len(c) >= 3 {
			must[Call{c[0], c[1], c[2]}] = len(c) == 3
		}
	}
	return must, lines.Err()
}
