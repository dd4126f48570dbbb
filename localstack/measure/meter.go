package measure

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Use is what was asked of AWS. Units are DynamoDB's: a read of up to 4 kB (half without strong consistency), a write of up to 1 kB; both twice in
// a transaction.
type Use struct {
	Requests   map[string]int // by operation and table: "GetItem grants"
	ReadUnits  float64
	WriteUnits float64
	Refused    int // conditional writes whose condition did not hold
	Unanswered int // calls that their caller gave up
	S3, KMS    int
	Busy       time.Duration // that the other side took, all calls together
}

// DynamoDB is how many requests of one operation there were, on all tables.
func (u Use) DynamoDB(operation string) int {
	n := 0
	for k, c := range u.Requests {
		if op, _, _ := strings.Cut(k, " "); op == operation {
			n += c
		}
	}
	return n
}

// maxBody bounds a call and an answer.
const maxBody = 64 << 20

// Meter stands before a local AWS and counts what passes. It computes units from what was sent and answered; an item that is replaced by a
// smaller one costs more than it says.
type Meter struct {
	next http.Handler

	mu  sync.Mutex
	use Use
	bad error
}

// NewMeter counts what goes to next.
func NewMeter(next http.Handler) *Meter {
	return &Meter{next: next, use: Use{Requests: map[string]int{}}}
}

// Take returns what was counted since the last Take, and the first thing that could not be.
func (m *Meter) Take() (Use, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, bad := m.use, m.bad
	m.use, m.bad = Use{Requests: map[string]int{}}, nil
	return u, bad
}

type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.body.Write(b)
	return a.ResponseWriter.Write(b)
}

func (m *Meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	a := &answer{ResponseWriter: w, status: http.StatusOK}
	begin := time.Now()
	m.next.ServeHTTP(a, r)
	took := time.Since(begin)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.use.Busy += took
	service, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	switch {
	case service == "TrentService":
		m.use.KMS++
	case service == "":
		m.use.S3++
	case strings.HasPrefix(service, "DynamoDB_"):
		if err := m.use.dynamo(op, body, a.body.Bytes()); err != nil && m.bad == nil {
			m.bad = fmt.Errorf("%s: %w", op, err)
		}
		if a.status == http.StatusBadRequest && bytes.Contains(a.body.Bytes(), []byte("ConditionalCheckFailed")) {
			m.use.Refused++
		}
	default:
		m.bad = fmt.Errorf("a call of %s", service)
	}
}

// wireItem is an item as DynamoDB's JSON has it.
type wireItem map[string]map[string]json.RawMessage

type dynamoRequest struct {
	TableName      string
	ConsistentRead bool
	Item           wireItem
	TransactItems  []struct {
		Put *struct {
			TableName string
			Item      wireItem
		}
	}
}

func (u *Use) dynamo(op string, in, out []byte) error {
	var req dynamoRequest
	var resp struct {
		Item  wireItem
		Items []wireItem
	}
	if err := json.Unmarshal(in, &req); err != nil {
		return err
	}
	if len(out) == 0 {
		u.Unanswered++
	} else if err := json.Unmarshal(out, &resp); err != nil {
		return err
	}
	table := req.TableName[strings.LastIndex(req.TableName, "-")+1:]
	switch op {
	case "GetItem":
		u.read(size(resp.Item), req.ConsistentRead)
	case "Query":
		n := 0
		for _, it := range resp.Items {
			n += size(it)
		}
		u.read(n, req.ConsistentRead)
	case "PutItem":
		u.WriteUnits += units(size(req.Item), 1024)
		table = named(table, req.Item)
	case "TransactWriteItems":
		for _, t := range req.TransactItems {
			if t.Put == nil {
				return fmt.Errorf("something that is not a put")
			}
			u.WriteUnits += 2 * units(size(t.Put.Item), 1024)
		}
		table = "two items"
	case "CreateTable", "DescribeTable", "DeleteTable":
		return nil
	default:
		return fmt.Errorf("an operation that is not known")
	}
	u.Requests[op+" "+table]++
	return nil
}

// named tells the feed's own index from entries.
func named(table string, it wireItem) string {
	if bytes.HasPrefix(it["pk"]["S"], []byte(`"~`)) {
		return table + " index"
	}
	return table
}

func (u *Use) read(n int, strong bool) {
	r := units(n, 4096)
	if !strong {
		r /= 2
	}
	u.ReadUnits += r
}

func units(n, of int) float64 { return math.Max(1, math.Ceil(float64(n)/float64(of))) }

// size is an item's in DynamoDB's account: names and values; a number takes a byte for two digits and one more.
func size(it wireItem) int {
	n := 0
	for name, v := range it {
		n += len(name)
		for kind, raw := range v {
			var s string
			_ = json.Unmarshal(raw, &s) // no other kinds are ours
			switch kind {
			case "B":
				b, _ := base64.StdEncoding.DecodeString(s)
				n += len(b)
			case "N":
				n += (len(s)+1)/2 + 1
			default:
				n += len(s)
			}
		}
	}
	return n
}
