package lambda_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/lambda"
)

func TestChange(t *testing.T) {
	record := func(name, pk, sk, seq string) string {
		return `{"eventName":"` + name + `","dynamodb":{"Keys":{"pk":{"S":"` + pk + `"},"sk":{"S":"` + sk + `"}},"SequenceNumber":"` + seq + `"}}`
	}
	var heard []string
	swept := 0
	changed := func(_ context.Context, pk, sk string) error {
		heard = append(heard, pk+"/"+sk)
		if sk == "poison" {
			return errors.New("no")
		}
		return nil
	}
	sweep := func(context.Context) error { swept++; return errors.New("swept badly") }
	out, err := lambda.Change(t.Context(), []byte(`{"Records":[`+record("INSERT", "a", "1", "100")+","+record("MODIFY", "a", "poison", "200")+","+
		record("REMOVE", "a", "2", "300")+","+record("INSERT", "b", "3", "400")+`,{"eventName":"INSERT","dynamodb":{"Keys":{"pk":{"N":"1"}},"SequenceNumber":"500"}}]}`), changed, sweep)
	if err != nil || !slices.Equal(heard, []string{"a/1", "a/poison", "b/3"}) || swept != 0 {
		t.Fatalf("%v %v %d", err, heard, swept)
	}
	if f := out.BatchItemFailures; len(f) != 2 || f[0].ItemIdentifier != "200" || f[1].ItemIdentifier != "500" {
		t.Errorf("%+v", f)
	}
	if _, err := lambda.Change(t.Context(), []byte(`{"source":"aws.events"}`), changed, sweep); err == nil || swept != 1 {
		t.Errorf("a schedule: %v, swept %d times", err, swept)
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"Records":[]}`, `{"Records":"x"}`} {
		if _, err := lambda.Change(t.Context(), []byte(bad), changed, sweep); err == nil || swept != 1 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
