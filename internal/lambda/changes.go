package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/aws/aws-lambda-go/events"
	runtime "github.com/aws/aws-lambda-go/lambda"
)

// Changes runs a function behind a table's stream and a schedule, for the function's life: changed hears of each item that was written, by its
// key; sweep is called by the schedule. It does not return.
func Changes(changed func(ctx context.Context, pk, sk string) error, sweep func(ctx context.Context) error) {
	runtime.Start(func(ctx context.Context, e json.RawMessage) (events.DynamoDBEventResponse, error) {
		return Change(ctx, e, changed, sweep)
	})
}

// Change is one event. Each record is handled whatever became of the others; those that failed are named, so that they come again and no others
// need to (ReportBatchItemFailures). A record without our keys fails too: silence would lose it.
func Change(ctx context.Context, raw json.RawMessage, changed func(ctx context.Context, pk, sk string) error, sweep func(ctx context.Context) error) (events.DynamoDBEventResponse, error) {
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
		return out, sweep(ctx)
	}
	for _, r := range e.Records {
		if r.EventName == string(events.DynamoDBOperationTypeRemove) {
			continue
		}
		pk, sk := r.Change.Keys["pk"], r.Change.Keys["sk"]
		if pk.DataType() != events.DataTypeString || sk.DataType() != events.DataTypeString || changed(ctx, pk.String(), sk.String()) != nil {
			out.BatchItemFailures = append(out.BatchItemFailures, events.DynamoDBBatchItemFailure{ItemIdentifier: r.Change.SequenceNumber})
		}
	}
	return out, nil
}
