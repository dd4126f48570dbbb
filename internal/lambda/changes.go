package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aws/aws-lambda-go/events"
	runtime "github.com/aws/aws-lambda-go/lambda"
)

// Listener hears of each item of a table that was written, by its key, and looks at all of them when a schedule says so.
type Listener interface {
	Changed(ctx context.Context, pk, sk string) error
	Sweep(ctx context.Context) error
}

// Changes runs a function behind a table's stream and a schedule, for the function's life. It returns where build makes none.
func Changes[L Listener](name string, getenv Getenv, build func(ctx context.Context, getenv Getenv, log *slog.Logger) (L, error)) error {
	t, l, err := start(name, getenv, build)
	if err != nil {
		return err
	}
	runtime.Start(func(ctx context.Context, e json.RawMessage) (out events.DynamoDBEventResponse, err error) {
		defer t.Flush(ctx)
		err = t.Run(ctx, requestID(ctx), name, func(ctx context.Context) (err error) {
			out, err = Change(ctx, e, l, t.Log())
			return err
		})
		return out, err
	})
	return nil
}

// Change is one event. Each record is handled whatever became of the others; those that failed are named, so that they come again and no others
// need to (ReportBatchItemFailures). A record without our keys fails too: silence would lose it.
func Change(ctx context.Context, raw json.RawMessage, l Listener, log *slog.Logger) (events.DynamoDBEventResponse, error) {
	var out events.DynamoDBEventResponse
	var e struct {
		Records []events.DynamoDBEventRecord
		Source  string `json:"source"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return out, fmt.Errorf("event: %w", err)
	}
	if len(e.Records) == 0 {
		if e.Source == "" {
			return out, errors.New("event: neither of a stream nor of a schedule")
		}
		return out, l.Sweep(ctx)
	}
	for _, r := range e.Records {
		if r.EventName == string(events.DynamoDBOperationTypeRemove) {
			continue
		}
		pk, sk := r.Change.Keys["pk"], r.Change.Keys["sk"]
		err := errors.New("a key is no text")
		if pk.DataType() == events.DataTypeString && sk.DataType() == events.DataTypeString {
			err = l.Changed(ctx, pk.String(), sk.String())
		}
		if err != nil {
			log.WarnContext(ctx, "item comes again", "sequence", r.Change.SequenceNumber, "error", err)
			out.BatchItemFailures = append(out.BatchItemFailures, events.DynamoDBBatchItemFailure{ItemIdentifier: r.Change.SequenceNumber})
		}
	}
	return out, nil
}
