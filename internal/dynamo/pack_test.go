package dynamo

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/sallyport/sallyport/internal/store"
)

// entry is a decided command as functions/decide stores it, with keys and digests of full entropy.
func entry() []byte {
	return []byte(`[{"v":1,"kind":"command","id":"01M892PWMRDF4RRPBVX3DRBP2K","time":"2026-11-25T10:06:07Z","agent":"edge","session":"01M892PWMRY2D77ZT0HYKHPQTT","seq":41,` +
		`"prev":"5ZWXS_HJ0Fxd_wLJwPJAwsnc9COhuXjO01METlE15bw","target":"billing","lineage":{"principal":"maria@example.com","groups":["payments","oncall"],"path":[{"id":"01M892PWMR7J5XY2SQ3FSK5VSV",` +
		`"name":"maria@example.com"},{"id":"01M892PWMR5Z81YAF4TYX4100M","name":"reporter","purpose":"monthly figures"}],"assurance":2,"auth_time":"2026-11-25T10:06:07Z"},"command":{"verb":"SELECT",` +
		`"digest":"I-ACrZq8CJqNy9w3e9w7LpwSjWh82RZhH8tcs6Yiq34","normalised":"select id, customer_id, total from orders where customer_id = $1 order by created_at desc limit $2",` +
		`"body":"62bV8LfbTLrlnZIDixEHbfb+iwXaafz7szdokhV/jg4vtoc/MFeVDHw1+R8oSU0bxP6octE8Fv76arCVgPew1S54ih0pRBxA7TAzr789Eoj9mVgDOYKj7lXozM2QmFykz0VUEhyuexXJiDSjCDYxzfvobyt/CgpWAtX0H7w4Ry1aAwVCVmBoxA==",` +
		`"state":{"database":"billing","role":"reader"},"touches":[{"effect":"read","resource":{"kind":"table","name":"public.orders"}}],"facts":{"has_where":true,"in_txn":false,"statements":1},"complete":true},` +
		`"decision":{"command":"01M892PWMRDF4RRPBVX3DRBP2K","seq":41,"digest":"I-ACrZq8CJqNy9w3e9w7LpwSjWh82RZhH8tcs6Yiq34","outcome":"allow","rule":"reads","reasons":["reads permits read on table public.orders"]}}]`)
}

func TestPack(t *testing.T) {
	noise := make([]byte, 4000)
	_, _ = rand.Read(noise)
	for name, tt := range map[string]struct {
		body   []byte
		packed bool
	}{
		"nothing": {nil, false}, "short": {[]byte(strings.Repeat("a", packFrom-1)), false}, "an entry": {entry(), true},
		"noise": {noise, false}, "the largest": {bytes.Repeat([]byte("x"), store.MaxItem), true},
	} {
		m := map[string]types.AttributeValue{}
		setBody(m, tt.body)
		if _, packed := m[attrPacked]; packed != tt.packed || len(m) != 1 {
			t.Errorf("%s: %d attributes, packed %v", name, len(m), packed)
		}
		if got, err := bodyOf(m); err != nil || !bytes.Equal(got, tt.body) {
			t.Errorf("%s: %d bytes back of %d: %v", name, len(got), len(tt.body), err)
		}
	}
	// The promise that the price list makes.
	if n := len(pack(entry())); n > 750 {
		t.Errorf("an entry of %d bytes is packed into %d", len(entry()), n)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good := pack(entry())
	for name, b := range map[string][]byte{
		"nothing": {}, "another dictionary": append([]byte{2}, good[1:]...), "a piece": good[:len(good)-3], "bytes behind it": append(bytes.Clone(good), 0),
		"more than an item": pack(bytes.Repeat([]byte("x"), store.MaxItem+1)), "noise": {1, 0xff, 0xff, 0xff},
	} {
		if got, err := unpack(b); err == nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
	both := map[string]types.AttributeValue{attrPacked: &types.AttributeValueMemberB{Value: good}, attrBody: &types.AttributeValueMemberB{}}
	for _, m := range []map[string]types.AttributeValue{both, {}, {attrBody: str("text")}} {
		if _, err := bodyOf(m); err == nil {
			t.Errorf("%v: has a body", m)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(entry()))
	f.Add([]byte{1, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := unpack(b)
		if err != nil {
			return
		}
		if len(body) > store.MaxItem {
			t.Fatalf("%d bytes", len(body))
		}
		if again, err := unpack(pack(body)); err != nil || !bytes.Equal(again, body) {
			t.Fatalf("%v", err)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	body := entry()
	b.ReportAllocs()
	for b.Loop() {
		pack(body)
	}
	b.ReportMetric(float64(len(pack(body))), "bytes")
	b.ReportMetric(float64(len(body)), "plain")
}
