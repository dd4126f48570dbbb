// Package dynamo keeps items in four DynamoDB tables, by conditional writes that may be retried without harm.
// It refuses a write whose condition does not hold, and answers an error where it cannot tell whether a write was applied.
package dynamo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/sallyport/sallyport/internal/store"
)

// Attributes of an item. The tables' keys are pk and sk, both strings.
const (
	attrPK      = "pk"
	attrSK      = "sk"
	attrVersion = "version" // number, from 1
	attrExpires = "expires" // number, Unix seconds, absent for never: the attribute that a table's TTL may name
	attrBody    = "body"    // binary; or attrPacked
	attrTry     = "try"     // binary: names the call that wrote this version, so that its retries know their own work
	attrWritten = "written" // number, Unix milliseconds, in the audit table alone: the feed's order
)

// Limits of one call. Every attempt of a call has to end within its own time; the whole call, retries included, within callLimit, which
// the feed counts on (see settle).
const (
	attempts   = 4
	maxBackoff = 300 * time.Millisecond
	callLimit  = 10 * time.Second
	maxPK      = 1024 // bytes; DynamoDB takes 2048
	maxSK      = 1000 // bytes; DynamoDB takes 1024
)

// Config says which tables. AWS carries region, credentials, endpoint and HTTP client; its retryer is replaced.
type Config struct {
	AWS    aws.Config
	Tables map[string]string // store.Grants… to the table's name or ARN; a table without a name here is refused
	Now    func() time.Time  // nil: time.Now
}

// Tables implements store.Items, and store.Feed for the audit table.
type Tables struct {
	client  *dynamodb.Client
	retryer aws.RetryerV2
	names   map[string]string
	now     func() time.Time
	index   index
	mu      sync.Mutex // guards minute
	minute  minute     // the feed's last one
}

var known = []string{store.Grants, store.Approvals, store.Registry, store.Audit}

// New checks the configuration and calls nobody.
func New(c Config) (*Tables, error) {
	if len(c.Tables) == 0 {
		return nil, errors.New("dynamo: no tables")
	}
	for t, name := range c.Tables {
		if !slices.Contains(known, t) || name == "" {
			return nil, fmt.Errorf("dynamo: table %q named %q is not one of %q", t, name, known)
		}
	}
	if c.AWS.Region == "" || c.AWS.Credentials == nil {
		return nil, errors.New("dynamo: a region and credentials are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := newRetryer()
	client := dynamodb.NewFromConfig(c.AWS, func(o *dynamodb.Options) { o.Retryer = r })
	return &Tables{client: client, retryer: r, names: c.Tables, now: c.Now}, nil
}

// newRetryer retries what the SDK calls transient, and writes that met a transaction under way. It keeps no budget of its own: every
// call is bounded by attempts and callLimit already, and a function under load must not refuse because of others' errors.
func newRetryer() aws.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff, o.RateLimiter = attempts, maxBackoff, ratelimit.None
		o.Retryables = append(o.Retryables, retry.RetryableErrorCode{Codes: map[string]struct{}{"TransactionConflictException": {}}})
	})
}

func (t *Tables) table(name string) (string, error) {
	if n, ok := t.names[name]; ok {
		return n, nil
	}
	return "", errors.New("no table " + strconv.Quote(name))
}

func keyOf(k store.Key) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{attrPK: str(k.PK), attrSK: str(k.SK)}
}

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func checkKey(k store.Key) error {
	if k.PK == "" || k.SK == "" || len(k.PK) > maxPK || len(k.SK) > maxSK || !utf8.ValidString(k.PK) || !utf8.ValidString(k.SK) {
		return fmt.Errorf("key %q %q: want 1 to %d and 1 to %d bytes of UTF-8", clip(k.PK), clip(k.SK), maxPK, maxSK)
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// Get returns the item or store.ErrNotFound. strong=false costs half and may be stale.
func (t *Tables) Get(ctx context.Context, table string, k store.Key, strong bool) (store.Item, error) {
	it, _, err := t.get(ctx, table, k, strong)
	return it, err
}

func (t *Tables) get(ctx context.Context, table string, k store.Key, strong bool) (store.Item, time.Time, error) {
	name, err := t.table(table)
	if err != nil {
		return store.Item{}, time.Time{}, err
	}
	if err := checkKey(k); err != nil {
		return store.Item{}, time.Time{}, fmt.Errorf("get %s: %w", table, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := t.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: &name, Key: keyOf(k), ConsistentRead: &strong})
	if err != nil {
		return store.Item{}, time.Time{}, fmt.Errorf("get %s %s %s: %w", table, k.PK, k.SK, err)
	}
	if len(out.Item) == 0 {
		return store.Item{}, time.Time{}, fmt.Errorf("get %s %s %s: %w", table, k.PK, k.SK, store.ErrNotFound)
	}
	return decode(out.Item)
}

// decode reads an item, and when it was written where that is said.
func decode(m map[string]types.AttributeValue) (it store.Item, written time.Time, err error) {
	pk, ok1 := m[attrPK].(*types.AttributeValueMemberS)
	sk, ok2 := m[attrSK].(*types.AttributeValueMemberS)
	version, ok3, err := number(m, attrVersion)
	if !ok1 || !ok2 || !ok3 || err != nil {
		return store.Item{}, time.Time{}, fmt.Errorf("item in DynamoDB: not one of ours (keys or version): %w", errors.Join(err, errForeign))
	}
	body, err := bodyOf(m)
	if err != nil {
		return store.Item{}, time.Time{}, err
	}
	it = store.Item{Key: store.Key{PK: pk.Value, SK: sk.Value}, Version: version, Body: body}
	expires, has, err := number(m, attrExpires)
	if err != nil {
		return store.Item{}, time.Time{}, err
	}
	if has {
		it.Expires = time.Unix(expires, 0).UTC()
	}
	ms, has, err := number(m, attrWritten)
	if err != nil {
		return store.Item{}, time.Time{}, err
	}
	if has {
		written = time.UnixMilli(ms).UTC()
	}
	return it, written, nil
}

var errForeign = errors.New("somebody else wrote it")

func number(m map[string]types.AttributeValue, name string) (n int64, has bool, err error) {
	v, has := m[name]
	if !has {
		return 0, false, nil
	}
	s, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		return 0, true, fmt.Errorf("item in DynamoDB: %s is not a number", name)
	}
	if n, err = strconv.ParseInt(s.Value, 10, 64); err != nil {
		return 0, true, fmt.Errorf("item in DynamoDB: %s: %w", name, err)
	}
	return n, true, nil
}

// Query lists a partition's items whose SK starts with prefix, strongly. The cursor is the last SK of the page before. A page may be
// shorter than limit and still have a cursor: DynamoDB reads 1 MB at a time.
func (t *Tables) Query(ctx context.Context, table, pk, prefix, cursor string, limit int) (store.Page, error) {
	if limit < 1 || limit > 1000 {
		return store.Page{}, fmt.Errorf("query %s: limit %d is not 1 to 1000", table, limit)
	}
	var p store.Page
	more, err := t.scan(ctx, table, pk, span(prefix, cursor), limit+1, func(it store.Item, _ time.Time) { p.Items = append(p.Items, it) })
	if err != nil {
		return store.Page{}, err
	}
	if len(p.Items) > limit {
		p.Items, more = p.Items[:limit], true
	}
	if more && len(p.Items) > 0 {
		p.Cursor = p.Items[len(p.Items)-1].SK
	}
	return p, nil
}

// between is a closed range of SKs.
type between struct{ low, high string }

// lastRune sorts after every SK that goes on after a prefix.
const lastRune = "\U0010FFFF"

// span is the range of a prefix behind a cursor: begins_with cannot be joined with a start in one condition.
func span(prefix, cursor string) between {
	b := between{low: prefix, high: prefix + lastRune}
	if cursor >= prefix && cursor != "" {
		b.low = cursor + "\x00" // the least string behind it
	}
	if b.low == "" {
		b.low = "\x00"
	}
	return b
}

// scan reads up to limit items of a range, in one call. more says that DynamoDB stopped before the range's end.
func (t *Tables) scan(ctx context.Context, table, pk string, b between, limit int, each func(store.Item, time.Time)) (more bool, err error) {
	name, err := t.table(table)
	if err != nil {
		return false, err
	}
	if b.low > b.high {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := t.client.Query(ctx, &dynamodb.QueryInput{
		TableName: &name, ConsistentRead: aws.Bool(true), Limit: aws.Int32(int32(min(limit, 10_000))),
		KeyConditionExpression:    aws.String(attrPK + " = :pk AND " + attrSK + " BETWEEN :low AND :high"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":pk": str(pk), ":low": str(b.low), ":high": str(b.high)},
	})
	if err != nil {
		return false, fmt.Errorf("query %s %s: %w", table, clip(pk), err)
	}
	for _, m := range out.Items {
		it, written, err := decode(m)
		if err != nil {
			return false, fmt.Errorf("query %s %s: %w", table, clip(pk), err)
		}
		each(it, written)
	}
	return len(out.LastEvaluatedKey) > 0, nil
}
