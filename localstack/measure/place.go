package measure

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddb "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
)

// Place is what a deployment's functions stand on, made for one measurement: four tables, a bucket, four keys. Nothing in it is worth keeping.
type Place struct {
	Name string            // begins the names of everything
	Vars map[string]string // the environment of a function, credentials apart

	tables  *dynamodb.Client
	objects *s3.Client
	keys    *kms.Client
	made    []func(context.Context) error // undo, the last first
}

// makeLimit is for one resource to be ready.
const makeLimit = 2 * time.Minute

var keySettings = map[string]bool{stack.KeyToken: true, stack.KeyCA: true, stack.KeyCheckpoint: true, stack.KeyState: false} // true: signs

// Make makes a place where the environment says. On an error it has removed what it made.
func Make(ctx context.Context, getenv func(string) string) (*Place, error) {
	p := &Place{Name: "sallyport-bench-" + strings.ToLower(rand.Text()[:10])}
	p.Vars = map[string]string{stack.Issuer: "https://broker.test", stack.Console: "https://console.test", stack.Origin: "bench.test/log"}
	if err := p.make(ctx, getenv); err != nil {
		return nil, errors.Join(err, p.Remove(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func (p *Place) make(ctx context.Context, getenv func(string) string) error {
	d, err := stack.Config(getenv, "DYNAMODB")
	if err != nil {
		return err
	}
	o, err := stack.Config(getenv, "S3")
	if err != nil {
		return err
	}
	k, err := stack.Config(getenv, "KMS")
	if err != nil {
		return err
	}
	p.tables, p.keys = dynamodb.NewFromConfig(d), kms.NewFromConfig(k)
	p.objects = s3.NewFromConfig(o, func(opt *s3.Options) { opt.UsePathStyle = o.BaseEndpoint != nil })
	p.Vars["AWS_REGION"] = d.Region
	for setting, name := range map[string]string{stack.TableGrants: store.Grants, stack.TableApprovals: store.Approvals, stack.TableRegistry: store.Registry, stack.TableAudit: store.Audit} {
		if p.Vars[setting], err = p.table(ctx, name); err != nil {
			return err
		}
	}
	if err := p.bucket(ctx, d.Region); err != nil {
		return err
	}
	for setting, sign := range keySettings {
		if p.Vars[setting], err = p.key(ctx, sign); err != nil {
			return err
		}
	}
	return nil
}

func (p *Place) table(ctx context.Context, of string) (string, error) {
	name := p.Name + "-" + of
	key := func(name string, kind ddb.KeyType) (ddb.KeySchemaElement, ddb.AttributeDefinition) {
		return ddb.KeySchemaElement{AttributeName: &name, KeyType: kind}, ddb.AttributeDefinition{AttributeName: &name, AttributeType: ddb.ScalarAttributeTypeS}
	}
	pk, pkType := key("pk", ddb.KeyTypeHash)
	sk, skType := key("sk", ddb.KeyTypeRange)
	_, err := p.tables.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: &name, BillingMode: ddb.BillingModePayPerRequest,
		KeySchema: []ddb.KeySchemaElement{pk, sk}, AttributeDefinitions: []ddb.AttributeDefinition{pkType, skType}})
	if err != nil {
		return "", fmt.Errorf("make table %s: %w", name, err)
	}
	p.made = append(p.made, func(ctx context.Context) error {
		_, err := p.tables.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &name})
		return err
	})
	ready := dynamodb.NewTableExistsWaiter(p.tables, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = 100 * time.Millisecond })
	return name, ready.Wait(ctx, &dynamodb.DescribeTableInput{TableName: &name}, makeLimit)
}

func (p *Place) bucket(ctx context.Context, region string) error {
	name := p.Name
	in := &s3.CreateBucketInput{Bucket: &name}
	if region != "us-east-1" { // which S3 does not take as a constraint
		in.CreateBucketConfiguration = &s3types.CreateBucketConfiguration{LocationConstraint: s3types.BucketLocationConstraint(region)}
	}
	if _, err := p.objects.CreateBucket(ctx, in); err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	p.made = append(p.made, func(ctx context.Context) error { return p.empty(ctx, name) })
	p.Vars[stack.BundleBucket], p.Vars[stack.EvidenceBucket] = name, name
	return nil
}

func (p *Place) empty(ctx context.Context, bucket string) error {
	pages := s3.NewListObjectsV2Paginator(p.objects, &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			if _, err := p.objects.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: o.Key}); err != nil {
				return err
			}
		}
	}
	_, err := p.objects.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &bucket})
	return err
}

func (p *Place) key(ctx context.Context, sign bool) (string, error) {
	in := &kms.CreateKeyInput{KeySpec: kmstypes.KeySpecSymmetricDefault, KeyUsage: kmstypes.KeyUsageTypeEncryptDecrypt, Description: aws.String(p.Name)}
	if sign {
		in.KeySpec, in.KeyUsage = kmstypes.KeySpecEccNistP256, kmstypes.KeyUsageTypeSignVerify
	}
	out, err := p.keys.CreateKey(ctx, in)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	id := *out.KeyMetadata.KeyId
	p.made = append(p.made, func(ctx context.Context) error {
		_, err := p.keys.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id, PendingWindowInDays: aws.Int32(7)}) // AWS's least
		return err
	})
	return id, nil
}

// Remove removes everything; keys go after seven days, as AWS wants it. What could not be removed is named.
func (p *Place) Remove(ctx context.Context) error {
	var all error
	for len(p.made) > 0 {
		undo := p.made[len(p.made)-1]
		p.made = p.made[:len(p.made)-1]
		if err := undo(ctx); err != nil {
			all = errors.Join(all, fmt.Errorf("remove what is named %s: %w", p.Name, err))
		}
	}
	return all
}

// Getenv is the place's settings before those of the process.
func (p *Place) Getenv(getenv func(string) string) func(string) string {
	return func(k string) string {
		if v, ok := p.Vars[k]; ok {
			return v
		}
		return getenv(k)
	}
}

// local are credentials that a local AWS takes.
var local = map[string]string{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}

// Local is the environment for a local AWS at a URL.
func Local(at string) (func(string) string, error) {
	if u, err := url.Parse(at); err != nil || u.Host == "" {
		return nil, fmt.Errorf("%q is no URL", at)
	}
	vars := maps.Clone(local)
	vars["AWS_ENDPOINT_URL"] = at
	return func(k string) string { return vars[k] }, nil
}
