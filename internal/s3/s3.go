// Package s3 keeps blobs as objects that are made once, and heads as objects that are replaced by compare-and-swap.
// It refuses to overwrite an object that it did not read, and answers an error where it cannot tell whether a write was applied.
package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport/internal/store"
)

// MaxBlob is the largest blob in bytes that Create takes and Open reads.
const MaxBlob = 64 << 20

// Limits of one call, retries included.
const (
	attempts   = 4
	maxBackoff = 500 * time.Millisecond
	callLimit  = 60 * time.Second // of 64 MB at the worst
)

// metaTry is the metadata of a head that names the call which wrote it, so that its retries know their own work.
const metaTry = "sallyport-try"

// Config says which bucket. AWS carries region, credentials, endpoint and HTTP client; its retryer is replaced.
type Config struct {
	AWS       aws.Config
	Bucket    string
	PathStyle bool // the bucket in the path rather than in the host: for endpoints without names of their own
}

// Bucket implements store.Blobs and store.Heads.
type Bucket struct {
	client *s3.Client
	name   string
}

// New checks the configuration and calls nobody.
func New(c Config) (*Bucket, error) {
	if c.Bucket == "" {
		return nil, errors.New("s3: a bucket is required")
	}
	if c.AWS.Region == "" || c.AWS.Credentials == nil {
		return nil, errors.New("s3: a region and credentials are required")
	}
	client := s3.NewFromConfig(c.AWS, func(o *s3.Options) {
		o.UsePathStyle = c.PathStyle
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts, r.MaxBackoff, r.RateLimiter = attempts, maxBackoff, ratelimit.None
			// Two conditional writes at once: S3 asks one of them to come again.
			r.Retryables = append(r.Retryables, retry.RetryableErrorCode{Codes: map[string]struct{}{"ConditionalRequestConflict": {}}})
		})
	})
	return &Bucket{client: client, name: c.Bucket}, nil
}

// Create writes a new object. Equal bytes again are success, a lost answer included; other bytes are store.ErrConflict.
func (b *Bucket) Create(ctx context.Context, name string, data []byte) error {
	if err := check(name, data); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err := b.put(ctx, name, data, func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") })
	if !refused(err) {
		return wrap("create", name, err)
	}
	there, err := b.Open(ctx, name)
	if err != nil {
		return fmt.Errorf("create %s: compare: %w", name, err)
	}
	if !bytes.Equal(there, data) {
		return fmt.Errorf("create %s: other bytes are there: %w", name, store.ErrConflict)
	}
	return nil
}

func (b *Bucket) put(ctx context.Context, name string, data []byte, cond func(*s3.PutObjectInput)) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	in := &s3.PutObjectInput{Bucket: &b.name, Key: &name, Body: bytes.NewReader(data), ChecksumAlgorithm: types.ChecksumAlgorithmSha256}
	cond(in)
	_, err := b.client.PutObject(ctx, in)
	return err
}

// Open returns the whole object or store.ErrNotFound.
func (b *Bucket) Open(ctx context.Context, name string) ([]byte, error) {
	o, err := b.read(ctx, name)
	return o.data, err
}

type object struct {
	data []byte
	etag string
	try  string
}

func (b *Bucket) read(ctx context.Context, name string) (object, error) {
	if err := check(name, nil); err != nil {
		return object{}, fmt.Errorf("open: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &name, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return object{}, wrap("open", name, err)
	}
	defer func() { _ = out.Body.Close() }() // read only
	if n := aws.ToInt64(out.ContentLength); n > MaxBlob {
		return object{}, fmt.Errorf("open %s: %d bytes: %w", name, n, store.ErrTooLarge)
	}
	data, err := io.ReadAll(io.LimitReader(out.Body, MaxBlob+1))
	if err != nil {
		return object{}, fmt.Errorf("open %s: %w", name, err)
	}
	if len(data) > MaxBlob {
		return object{}, fmt.Errorf("open %s: over %d bytes: %w", name, MaxBlob, store.ErrTooLarge)
	}
	return object{data: data, etag: aws.ToString(out.ETag), try: out.Metadata[metaTry]}, nil
}

// List returns the names under a prefix, sorted.
func (b *Bucket) List(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list", prefix, err)
		}
		for _, o := range page.Contents {
			names = append(names, aws.ToString(o.Key))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Load returns a head or store.ErrNotFound.
func (b *Bucket) Load(ctx context.Context, name string) ([]byte, error) { return b.Open(ctx, name) }

// Swap replaces old by new, or returns store.ErrConflict; old nil means that it must not exist. What is compared is the value that was
// read, and S3 holds the write to that very version.
func (b *Bucket) Swap(ctx context.Context, name string, old, new []byte) error {
	if err := check(name, new); err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	try := rand.Text()
	cond := func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") }
	if old != nil {
		was, err := b.read(ctx, name)
		if errors.Is(err, store.ErrNotFound) || err == nil && !bytes.Equal(was.data, old) {
			return fmt.Errorf("swap %s: %w", name, store.ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("swap %s: %w", name, err)
		}
		cond = func(in *s3.PutObjectInput) { in.IfMatch = &was.etag }
	}
	err := b.put(ctx, name, new, func(in *s3.PutObjectInput) { in.Metadata = map[string]string{metaTry: try}; cond(in) })
	if !refused(err) {
		return wrap("swap", name, err)
	}
	switch is, err := b.read(ctx, name); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return fmt.Errorf("swap %s: compare: %w", name, err)
	case is.try == try:
		return nil // by a try whose answer was lost
	}
	return fmt.Errorf("swap %s: %w", name, store.ErrConflict)
}

// refused says that S3 found the condition not to hold.
func refused(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && (api.ErrorCode() == "PreconditionFailed" || api.ErrorCode() == "NoSuchKey")
}

func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "NoSuchKey" {
		err = store.ErrNotFound
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}

func check(name string, data []byte) error {
	if !fs.ValidPath(name) || name == "." || len(name) > 512 || !utf8.ValidString(name) {
		return fmt.Errorf("blob name %q is not a clean relative path", name[:min(len(name), 64)])
	}
	if len(data) > MaxBlob {
		return fmt.Errorf("%s: %d bytes: %w", name, len(data), store.ErrTooLarge)
	}
	return nil
}
