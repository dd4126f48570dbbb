package dynamo

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/sallyport/sallyport/internal/store"
)

// DynamoDB charges a write by the kilobyte, and a decided command as JSON is a little over one: packed it is a little over half. So a body that
// could be over the first kilobyte lies packed instead, where that is shorter: attribute packed, one byte that names the dictionary, then deflate.

// attrPacked is there instead of attrBody.
const attrPacked = "packed" // binary

// packFrom is the length from which packing can save something: keys and marks take some 120 bytes of the first kilobyte.
const packFrom = 800

// dictionary1 is what entries have in common, the likeliest last. What was packed with it needs it for good: another one gets another number.
const dictionary1 = `,"kind":"recording","kind":"outcome","note":{"program":"psql"},"approval":"01M","link":"https://","expires":"2026-` +
	`"effect":"unknown","effect":"transfer","effect":"connect","effect":"execute","effect":"grant","effect":"define","effect":"write",` +
	`"resource":{"kind":"path","name":"/","resource":{"kind":"setting","name":"resource":{"kind":"function","name":"public.","columns":["id","name","email"]` +
	`,"functions":["count","now"],"where":false,"has_where":false,"has_where":true,"in_txn":true,"statements":1,"row_limit":100},"complete":false,"why":"` +
	`,"classes":[{"class":"email","on":"public.customers.email","how":"` +
	`"obligations":[{"kind":"mask","classes":["email"]},{"kind":"record"}]` +
	`,"outcome":"deny","code":"denied","hint":"ask ","rule":"` +
	` insert into update set delete from where and order by desc limit group by inner join on select * from ` +
	`[{"v":1,"kind":"command","id":"01","time":"202","agent":"agent-1","session":"01","seq":1,"prev":"","target":"app","lineage":{"principal":"` +
	`","groups":["engineers"],"path":[{"id":"01","name":"alice"},{"id":"01","name":"","purpose":""}],"assurance":2,"auth_time":"202` +
	`Z"},"command":{"verb":"SELECT","digest":"","normalised":"select ","body":"","state":{"database":"app","role":"app","search_path":"` +
	`"},"touches":[{"effect":"read","resource":{"kind":"table","name":"public."}}],"facts":{"has_where":true,"in_txn":false,"statements":1},"complete":true}` +
	`,"decision":{"command":"01","seq":1,"digest":"","outcome":"allow","rule":"read","reasons":["read permits read on table public."]}}]`

const firstDictionary = 1

var packers = sync.Pool{New: func() any {
	w, err := flate.NewWriterDict(io.Discard, flate.DefaultCompression, []byte(dictionary1))
	if err != nil {
		panic(err) // the level is one
	}
	return w
}}

// setBody is the attribute that a body lies in.
func setBody(m map[string]types.AttributeValue, body []byte) {
	if len(body) >= packFrom {
		if p := pack(body); len(p) < len(body) {
			m[attrPacked] = &types.AttributeValueMemberB{Value: p}
			return
		}
	}
	m[attrBody] = &types.AttributeValueMemberB{Value: append([]byte{}, body...)}
}

func pack(body []byte) []byte {
	out := bytes.NewBuffer(make([]byte, 0, len(body)/2+64))
	out.WriteByte(firstDictionary)
	w, _ := packers.Get().(*flate.Writer)
	defer packers.Put(w)
	w.Reset(out)
	_, err := w.Write(body)
	if err := errors.Join(err, w.Close()); err != nil {
		panic(err) // a buffer takes everything
	}
	return out.Bytes()
}

// bodyOf reads either attribute; nil where there is not exactly one.
func bodyOf(m map[string]types.AttributeValue) ([]byte, error) {
	plain, ok := m[attrBody].(*types.AttributeValueMemberB)
	packed, isPacked := m[attrPacked].(*types.AttributeValueMemberB)
	switch {
	case ok == isPacked:
		return nil, fmt.Errorf("item in DynamoDB: want one body: %w", errForeign)
	case ok:
		return plain.Value, nil
	}
	return unpack(packed.Value)
}

// unpack never makes more than an item may have, whatever the bytes promise.
func unpack(b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] != firstDictionary {
		return nil, fmt.Errorf("item in DynamoDB: packed with a dictionary that is not known: %w", errForeign)
	}
	in := bytes.NewReader(b[1:])
	r := flate.NewReaderDict(in, []byte(dictionary1))
	defer func() { _ = r.Close() }() // what it read is checked
	body, err := io.ReadAll(io.LimitReader(r, store.MaxItem+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("item in DynamoDB: unpack: %w", err)
	case len(body) > store.MaxItem:
		return nil, fmt.Errorf("item in DynamoDB: unpack: %w", store.ErrTooLarge)
	case in.Len() > 0:
		return nil, fmt.Errorf("item in DynamoDB: %d bytes behind the body: %w", in.Len(), errForeign)
	}
	return body, nil
}
