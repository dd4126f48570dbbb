package measure

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/keyfile"
	"github.com/sallyport/sallyport/internal/sqlite"
	"github.com/sallyport/sallyport/internal/store"
)

// Twin answers in AWS's place for the calls that the functions make of DynamoDB, S3 and KMS, from SQLite, a directory and key files: the SDK and
// everything before it are then as on AWS, and what is behind it takes next to no time. It verifies no signature and knows no other call.
type Twin struct {
	items *sqlite.DB
	blobs *dir.Dir
	keys  *keyfile.Keys
}

// OpenTwin keeps everything below a directory.
func OpenTwin(where string) (*Twin, error) {
	keys, err := keyfile.Open(filepath.Join(where, "keys"))
	if err != nil {
		return nil, err
	}
	items, err := sqlite.Open(filepath.Join(where, "store.db"))
	if err != nil {
		return nil, err
	}
	blobs, err := dir.Open(filepath.Join(where, "blobs"))
	if err != nil {
		return nil, errors.Join(err, items.Close())
	}
	return &Twin{items, blobs, keys}, nil
}

// Close closes the stores; nobody may be calling.
func (t *Twin) Close() error { return errors.Join(t.items.Close(), t.blobs.Close()) }

// fault is an error as AWS says it.
type fault struct {
	code string
	more map[string]any
}

func (f fault) Error() string { return f.code }

func (t *Twin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	service, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var out any
	switch {
	case strings.HasPrefix(service, "DynamoDB_"):
		out, err = t.dynamo(r.Context(), op, body)
	case service == "TrentService":
		out, err = t.kms(r.Context(), op, body)
	case service == "":
		t.s3(w, r, body)
		return
	default:
		err = fault{code: "UnknownOperationException"}
	}
	status := http.StatusOK
	if err != nil {
		f := fault{code: "InternalServerError"}
		_ = errors.As(err, &f)
		answer := map[string]any{"__type": f.code, "message": err.Error()}
		for k, v := range f.more {
			answer[k] = v
		}
		out, status = answer, http.StatusBadRequest
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out) // who asked is gone, or hears it
}

type wirePut struct {
	TableName                 string
	Item                      wireItem
	ConditionExpression       string
	ExpressionAttributeValues wireItem
}

type dynamoCall struct {
	wirePut
	Key                    wireItem
	KeyConditionExpression string
	Limit                  int
	TransactItems          []struct{ Put *wirePut }
}

func (t *Twin) dynamo(ctx context.Context, op string, body []byte) (any, error) {
	var in dynamoCall
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fault{code: "SerializationException"}
	}
	switch op {
	case "CreateTable", "DescribeTable", "DeleteTable":
		return map[string]any{"TableDescription": map[string]any{"TableStatus": "ACTIVE"}, "Table": map[string]any{"TableStatus": "ACTIVE"}}, nil
	case "GetItem":
		it, err := t.get(ctx, in.TableName, key(in.Key))
		if err != nil || it == nil {
			return map[string]any{}, err
		}
		return map[string]any{"Item": it}, nil
	case "PutItem":
		w, err := write(in.wirePut)
		if err != nil {
			return nil, err
		}
		if err = t.items.Put(ctx, w); errors.Is(err, store.ErrConflict) {
			there, err := t.get(ctx, in.TableName, w.Item.Key)
			return nil, errors.Join(err, fault{"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", map[string]any{"Item": there}})
		}
		return map[string]any{}, err
	case "TransactWriteItems":
		return map[string]any{}, t.transact(ctx, in)
	}
	return nil, fault{code: "UnknownOperationException"} // a decision makes no query
}

func (t *Twin) transact(ctx context.Context, in dynamoCall) error {
	var ws [2]store.Write
	if len(in.TransactItems) != len(ws) {
		return fault{code: "ValidationException"}
	}
	for i, item := range in.TransactItems {
		if item.Put == nil {
			return fault{code: "ValidationException"}
		}
		var err error
		if ws[i], err = write(*item.Put); err != nil {
			return err
		}
	}
	err := t.items.Transact(ctx, ws[0], ws[1])
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	// Which of the two it was, the twin does not say: that no item is the caller's own is all that is looked at.
	reason := map[string]any{"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}
	return fault{"com.amazonaws.dynamodb.v20120810#TransactionCanceledException", map[string]any{"CancellationReasons": []any{reason, reason}}}
}

// table is the last part of a table's name.
func table(name string) string { return name[strings.LastIndex(name, "-")+1:] }

func text(v map[string]json.RawMessage, kind string) string {
	var s string
	_ = json.Unmarshal(v[kind], &s) // what is none is ""
	return s
}

func key(it wireItem) store.Key { return store.Key{PK: text(it["pk"], "S"), SK: text(it["sk"], "S")} }

func (t *Twin) get(ctx context.Context, name string, k store.Key) (wireItem, error) {
	it, err := t.items.Get(ctx, table(name), k, true)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m wireItem
	return m, json.Unmarshal(it.Body, &m)
}

// write reads the two conditions that there are.
func write(p wirePut) (store.Write, error) {
	body, err := json.Marshal(p.Item)
	if err != nil {
		return store.Write{}, err
	}
	w := store.Write{Table: table(p.TableName), Item: store.Item{Key: key(p.Item), Body: body}}
	switch p.ConditionExpression {
	case "attribute_not_exists(pk)":
		return w, nil
	case "version = :version":
		w.Cond.Version, err = strconv.ParseInt(text(p.ExpressionAttributeValues[":version"], "N"), 10, 64)
		return w, err
	}
	return store.Write{}, fault{code: "ValidationException"}
}

func (t *Twin) kms(ctx context.Context, op string, body []byte) (any, error) {
	var in struct {
		KeyID          string `json:"KeyId"`
		Message        []byte
		CiphertextBlob []byte
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fault{code: "SerializationException"}
	}
	switch op {
	case "CreateKey":
		return map[string]any{"KeyMetadata": map[string]any{"KeyId": "key-" + strings.ToLower(rand.Text()[:16])}}, nil
	case "ScheduleKeyDeletion":
		return map[string]any{}, nil
	case "GenerateDataKeyWithoutPlaintext": // the plaintext is the key's own secret: nothing is secret here
		return map[string]any{"CiphertextBlob": []byte(in.KeyID)}, nil
	case "Decrypt":
		b, err := t.keys.Secret(string(in.CiphertextBlob))
		return map[string]any{"Plaintext": b}, err
	case "GetPublicKey", "Sign":
		s, err := t.keys.Signer(in.KeyID)
		if err != nil {
			return nil, err
		}
		if op == "Sign" {
			sig, err := s.Sign(ctx, in.Message)
			return map[string]any{"Signature": sig}, err
		}
		der, err := x509.MarshalPKIXPublicKey(s.Public())
		return map[string]any{"PublicKey": base64.StdEncoding.EncodeToString(der), "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}, err
	}
	return nil, fault{code: "UnknownOperationException"}
}

func (t *Twin) s3(w http.ResponseWriter, r *http.Request, body []byte) {
	bucket, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	status, code := http.StatusNotImplemented, "NotImplemented"
	switch {
	case name == "" && (r.Method == http.MethodPut || r.Method == http.MethodDelete), r.Method == http.MethodDelete:
		return
	case name == "" && r.Method == http.MethodGet:
		names, err := t.blobs.List(r.Context(), r.URL.Query().Get("prefix"))
		if err == nil {
			list := struct {
				XMLName  xml.Name `xml:"ListBucketResult"`
				Name     string
				Contents []struct{ Key string }
			}{Name: bucket}
			for _, n := range names {
				list.Contents = append(list.Contents, struct{ Key string }{n})
			}
			_ = xml.NewEncoder(w).Encode(list) // who asked is gone, or hears it
			return
		}
	case r.Method == http.MethodPut && r.Header.Get("If-None-Match") == "*" && r.Header.Get("Content-Encoding") == "":
		err := t.blobs.Create(r.Context(), name, body)
		if err == nil {
			return
		}
		if errors.Is(err, store.ErrConflict) {
			status, code = http.StatusPreconditionFailed, "PreconditionFailed"
		}
	case r.Method == http.MethodGet:
		b, err := t.blobs.Open(r.Context(), name)
		if err == nil {
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = w.Write(b)
			return
		}
		if errors.Is(err, store.ErrNotFound) {
			status, code = http.StatusNotFound, "NoSuchKey"
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", code)
}
