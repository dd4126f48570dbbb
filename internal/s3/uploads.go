package s3

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sallyport/sallyport/internal/store"
)

// Grant presigns a PUT of exactly these bytes as a new object: S3 holds the body to the checksum and the length that are signed.
func (b *Bucket) Grant(ctx context.Context, name string, size int64, sum [32]byte, life time.Duration) (store.Upload, error) {
	if err := check(name, nil); err != nil {
		return store.Upload{}, fmt.Errorf("grant: %w", err)
	}
	if size < 1 || size > MaxBlob {
		return store.Upload{}, fmt.Errorf("grant %s: %d bytes: %w", name, size, store.ErrTooLarge)
	}
	req, err := s3.NewPresignClient(b.client).PresignPutObject(ctx, &s3.PutObjectInput{Bucket: &b.name, Key: &name, ContentLength: &size,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])), IfNoneMatch: aws.String("*")}, s3.WithPresignExpires(life))
	if err != nil {
		return store.Upload{}, fmt.Errorf("grant %s: %w", name, err)
	}
	u := store.Upload{URL: req.URL, Header: map[string]string{}}
	for k, vs := range req.SignedHeader {
		if k != "Host" && k != "Content-Length" && len(vs) == 1 {
			u.Header[k] = vs[0]
		}
	}
	return u, nil
}
