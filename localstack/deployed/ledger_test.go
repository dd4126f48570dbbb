package deployed

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestLedger(t *testing.T) {
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%s: not said to have come over TLS", r.URL)
		}
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusForbidden)
		}
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	}))
	defer aws.Close()
	to, err := url.Parse(aws.URL)
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(to)
	l.functions[credentials("arn:function", "arn:role")] = "decide"
	l.resources = map[string]string{"audit-1": "AuditTable.Arn", "blobs-1": "BlobsBucket.Arn", "evidence-1": "EvidenceBucket.Arn", "1234": "StateKey.Arn"}
	through := httptest.NewServer(l)
	defer through.Close()
	call := func(key, method, path, target, body string) {
		t.Helper()
		r, err := http.NewRequest(method, through.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+key+"/20260102/us-east-1/x/aws4_request, SignedHeaders=host, Signature=0")
		r.Header.Set("X-Amz-Target", target)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if err != nil || string(b) != body {
			t.Errorf("%s %s: the body was changed: %q, %v", method, path, b, err)
		}
	}
	own := credentials("arn:function", "arn:role")
	call(own, "POST", "/", "DynamoDB_20120810.GetItem", `{"TableName":"audit-1"}`)
	call(own, "POST", "/", "DynamoDB_20120810.TransactWriteItems", `{"TransactItems":[{"Put":{"TableName":"audit-1"}},{"Delete":{"TableName":"other"}}]}`)
	call(own, "POST", "/", "TrentService.Decrypt", `{"KeyId":"arn:aws:kms:us-east-1:0:key/1234"}`)
	call(own, "GET", "/blobs-1/bundles/sha256:x", "", "")
	call(own, "GET", "/evidence-1?list-type=2", "", "")
	call(own, "DELETE", "/evidence-1/entries/1", "", "")
	call(own, "PUT", "/evidence-1/checkpoint", "", "")
	call("test", "GET", "/blobs-1/bundles/sha256:x", "", "") // an operator's is nobody's
	want := []Call{{"decide", "dynamodb:DeleteItem", "other"}, {"decide", "dynamodb:GetItem", "AuditTable.Arn"}, {"decide", "dynamodb:PutItem", "AuditTable.Arn"},
		{"decide", "kms:Decrypt", "StateKey.Arn"}, {"decide", "s3:DeleteObject", "EvidenceBucket.Arn/entries/*"}, {"decide", "s3:GetObject", "BlobsBucket.Arn/bundles/*"},
		{"decide", "s3:ListBucket", "EvidenceBucket.Arn"}, {"decide", "s3:PutObject", "EvidenceBucket.Arn/checkpoint"}}
	if got := l.all(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if d := l.denials(); len(d) != 1 || !strings.Contains(d[0], "decide: DELETE") {
		t.Errorf("refused: %q", d)
	}
}

func TestCallsOfTheRepository(t *testing.T) {
	must, err := ReadCalls("../../infra/calls.tsv")
	if err != nil || len(must) < 30 || !must[Call{"decide", "dynamodb:PutItem", "AuditTable.Arn"}] || must[Call{"decide", "dynamodb:Query", "AuditTable.Arn"}] {
		t.Errorf("%d calls, %v", len(must), err)
	}
}
