package lambda_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/internal/lambda"
)

type listener struct {
	heard []string
	swept int
}

func (l *listener) Changed(_ context.Context, pk, sk string) error {
	l.heard = append(l.heard, pk+"/"+sk)
	if sk == "poison" {
		return errors.New("no")
	}
	return nil
}

func (l *listener) Sweep(context.Context) error { l.swept++; return errors.New("badly") }

func TestChange(t *testing.T) {
	record := func(name, pk, sk, seq string) string {
		return `{"eventName":"` + name + `","dynamodb":{"Keys":{"pk":{"S":"` + pk + `"},"sk":{"S":"` + sk + `"}},"SequenceNumber":"` + seq + `"}}`
	}
	l := &listener{}
	log := slog.New(slog.DiscardHandler)
	out, err := lambda.Change(t.Context(), []byte(`{"Records":[`+record("INSERT", "a", "1", "100")+","+record("MODIFY", "a", "poison", "200")+","+
		record("REMOVE", "a", "2", "300")+","+record("INSERT", "b", "3", "400")+`,{"eventName":"INSERT","dynamodb":{"Keys":{"pk":{"N":"1"}},"SequenceNumber":"500"}}]}`), l, log)
	if err != nil || !slices.Equal(l.heard, []string{"a/1", "a/poison", "b/3"}) || l.swept != 0 {
		t.Fatalf("%v %v %d", err, l.heard, l.swept)
	}
	if f := out.BatchItemFailures; len(f) != 2 || f[0].ItemIdentifier != "200" || f[1].ItemIdentifier != "500" {
		t.Errorf("%+v", f)
	}
	if _, err := lambda.Change(t.Context(), []byte(`{"source":"aws.events"}`), l, log); err == nil || l.swept != 1 {
		t.Errorf("a schedule: %v, swept %d times", err, l.swept)
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"Records":[]}`, `{"Records":"x"}`} {
		if _, err := lambda.Change(t.Context(), []byte(bad), l, log); err == nil || l.swept != 1 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
