package dynamo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport/internal/store"
)

// errUnsure is the honest answer where a try may have been applied and nothing that is there can tell.
var errUnsure = errors.New("an answer was lost, and the item has been written again since: it is not known whether this write was applied")

// Put writes one item under its condition, or returns store.ErrConflict. An answer that was lost is asked for again: where the first
// try was applied, its condition no longer holds for the second, which then finds its own mark on the item and knows.
func (t *Tables) Put(ctx context.Context, w store.Write) error {
	ctx, cancel, puts, err := t.prepare(ctx, w)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	defer cancel()
	p, lost := puts[0], &witness{RetryerV2: t.retryer}
	_, err = t.client.PutItem(ctx, &dynamodb.PutItemInput{
		TableName: p.TableName, Item: p.Item, ConditionExpression: p.ConditionExpression, ExpressionAttributeValues: p.ExpressionAttributeValues,
		ReturnValuesOnConditionCheckFailure: p.ReturnValuesOnConditionCheckFailure,
	}, func(o *dynamodb.Options) { o.Retryer = lost })
	var refused *types.ConditionalCheckFailedException
	if errors.As(err, &refused) {
		if sameTry(refused.Item, p.Item) {
			return nil
		}
		err = store.ErrConflict
		// Each version is written once: ours, if it was, is not the one that is there, but may be one before it.
		if version, _, bad := number(refused.Item, attrVersion); lost.unsure && (bad != nil || version > w.Cond.Version+1) {
			err = errUnsure
		}
	}
	if err != nil {
		return fmt.Errorf("put %s %s %s: %w", w.Table, w.Item.PK, w.Item.SK, tooLarge(err))
	}
	return nil
}

// Transact writes both items or neither. Its retries carry one token, by which DynamoDB knows them for ten minutes.
func (t *Tables) Transact(ctx context.Context, a, b store.Write) error {
	if a.Table == b.Table && a.Item.Key == b.Item.Key {
		return fmt.Errorf("transact %s %s %s: the same item twice", a.Table, a.Item.PK, a.Item.SK)
	}
	ctx, cancel, puts, err := t.prepare(ctx, a, b)
	if err != nil {
		return fmt.Errorf("transact: %w", err)
	}
	defer cancel()
	in := &dynamodb.TransactWriteItemsInput{ClientRequestToken: aws.String(rand.Text())}
	for i := range puts {
		in.TransactItems = append(in.TransactItems, types.TransactWriteItem{Put: &puts[i]})
	}
	wait := 5 * time.Millisecond
	for range transactions {
		_, err = t.client.TransactWriteItems(ctx, in)
		var cancelled *types.TransactionCanceledException
		if !errors.As(err, &cancelled) {
			break
		}
		var again bool
		if again, err = verdict(cancelled, puts); !again {
			break
		}
		// A cancelled transaction did nothing, and its token is worth nothing any more.
		in.ClientRequestToken = aws.String(rand.Text())
		if sleep(ctx, wait) != nil {
			break
		}
		wait = min(2*wait, maxBackoff)
	}
	if err != nil {
		return fmt.Errorf("transact %s %s %s, %s %s %s: %w", a.Table, a.Item.PK, a.Item.SK, b.Table, b.Item.PK, b.Item.SK, tooLarge(err))
	}
	return nil
}

// transactions bounds how often a transaction is begun again that met another one on the same item.
const transactions = 12

// verdict reads why a transaction was cancelled: a condition, unless it fails on an item of this very transaction (which then was
// applied as a whole, and its answer lost), or another transaction under way, which is no answer about the condition.
func verdict(c *types.TransactionCanceledException, puts []types.Put) (again bool, err error) {
	refused, busy := false, false
	for i, r := range c.CancellationReasons {
		switch code := aws.ToString(r.Code); code {
		case "", "None":
		case "ConditionalCheckFailed":
			if i < len(puts) && sameTry(r.Item, puts[i].Item) {
				return false, nil
			}
			refused = true
		case "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded":
			busy = true
		default:
			return false, &smithy.GenericAPIError{Code: code, Message: aws.ToString(r.Message)}
		}
	}
	if refused {
		return false, store.ErrConflict
	}
	return busy, c
}

// witness is the retryer of one call. It remembers whether an answer was lost, rather than that DynamoDB refused.
type witness struct {
	aws.RetryerV2
	unsure bool
}

// RetryDelay is asked between a failed try and the next.
func (w *witness) RetryDelay(attempt int, err error) (time.Duration, error) {
	var answered interface{ HTTPStatusCode() int }
	if !errors.As(err, &answered) || answered.HTTPStatusCode()/100 != 4 {
		w.unsure = true
	}
	return w.RetryerV2.RetryDelay(attempt, err)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// prepare checks the writes, enters those of the audit table into the feed's index, and bounds the time of the whole.
func (t *Tables) prepare(ctx context.Context, ws ...store.Write) (context.Context, context.CancelFunc, []types.Put, error) {
	now := t.now()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	puts := make([]types.Put, len(ws))
	for i, w := range ws {
		p, err := t.put(w)
		if err == nil && w.Table == store.Audit {
			p.Item[attrWritten] = num(now.UnixMilli())
			err = t.mark(ctx, now, w.Item.Key)
		}
		if err != nil {
			cancel()
			return nil, nil, nil, err
		}
		puts[i] = p
	}
	return ctx, cancel, puts, nil
}

func (t *Tables) put(w store.Write) (types.Put, error) {
	name, err := t.table(w.Table)
	if err != nil {
		return types.Put{}, err
	}
	if len(w.Item.Body) > store.MaxItem {
		return types.Put{}, fmt.Errorf("%s %s %s: %d bytes: %w", w.Table, w.Item.PK, w.Item.SK, len(w.Item.Body), store.ErrTooLarge)
	}
	if err := checkKey(w.Item.Key); err != nil {
		return types.Put{}, fmt.Errorf("%s: %w", w.Table, err)
	}
	m := keyOf(w.Item.Key)
	m[attrVersion] = num(w.Cond.Version + 1)
	setBody(m, w.Item.Body)
	m[attrTry] = newTry()
	if !w.Item.Expires.IsZero() {
		m[attrExpires] = num(w.Item.Expires.Unix())
	}
	p := types.Put{TableName: &name, Item: m, ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld}
	if w.Cond.Version == 0 {
		p.ConditionExpression = aws.String("attribute_not_exists(" + attrPK + ")")
		return p, nil
	}
	cond := attrVersion + " = :version"
	p.ExpressionAttributeValues = map[string]types.AttributeValue{":version": num(w.Cond.Version)}
	if !w.Cond.LiveAt.IsZero() {
		cond += " AND (attribute_not_exists(" + attrExpires + ") OR " + attrExpires + " > :live)"
		p.ExpressionAttributeValues[":live"] = num(w.Cond.LiveAt.Unix()) // Expires has whole seconds: the rest makes no difference
	}
	p.ConditionExpression = &cond
	return p, nil
}

func newTry() types.AttributeValue {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return &types.AttributeValueMemberB{Value: b}
}

// sameTry says whether what is there was written by the very call that found it.
func sameTry(there, ours map[string]types.AttributeValue) bool {
	a, ok1 := there[attrTry].(*types.AttributeValueMemberB)
	b, ok2 := ours[attrTry].(*types.AttributeValueMemberB)
	return ok1 && ok2 && len(a.Value) > 0 && bytes.Equal(a.Value, b.Value)
}

// tooLarge names DynamoDB's word for an item over its limit.
func tooLarge(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "ValidationException" && strings.Contains(api.ErrorMessage(), "size has exceeded") {
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	}
	return err
}
