package localaws

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddb "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sallyport/sallyport/internal/store"
)

// Region of everything.
const Region = "us-east-1"

// Config is how a client reaches a server: any credentials will do. It keeps no connection.
func Config(url string) aws.Config {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return aws.Config{Region: Region, BaseEndpoint: &url, HTTPClient: client, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
	})}
}

// Tables makes the four tables under names of their own.
func Tables(ctx context.Context, url string) (map[string]string, error) {
	client := dynamodb.NewFromConfig(Config(url))
	names := map[string]string{}
	for _, t := range []string{store.Grants, store.Approvals, store.Registry, store.Audit} {
		names[t] = t + "-" + unique()
		key := func(name string, kind ddb.KeyType) (ddb.KeySchemaElement, ddb.AttributeDefinition) {
			return ddb.KeySchemaElement{AttributeName: &name, KeyType: kind}, ddb.AttributeDefinition{AttributeName: &name, AttributeType: ddb.ScalarAttributeTypeS}
		}
		pk, pkType := key("pk", ddb.KeyTypeHash)
		sk, skType := key("sk", ddb.KeyTypeRange)
		_, err := client.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: aws.String(names[t]), BillingMode: ddb.BillingModePayPerRequest,
			KeySchema: []ddb.KeySchemaElement{pk, sk}, AttributeDefinitions: []ddb.AttributeDefinition{pkType, skType}})
		var there *ddb.ResourceInUseException // the names are ours alone: an earlier try made it, and its answer was lost
		if err != nil && !errors.As(err, &there) {
			return nil, fmt.Errorf("local AWS: make table %s: %w", t, err)
		}
		ready := dynamodb.NewTableExistsWaiter(client, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = 20 * time.Millisecond })
		if err := ready.Wait(ctx, &dynamodb.DescribeTableInput{TableName: aws.String(names[t])}, startLimit); err != nil {
			return nil, fmt.Errorf("local AWS: table %s: %w", t, err)
		}
	}
	return names, nil
}

// Bucket makes a bucket under a name of its own.
func Bucket(ctx context.Context, url string) (string, error) {
	name := "bucket-" + unique()
	client := s3.NewFromConfig(Config(url), func(o *s3.Options) { o.UsePathStyle = true })
	var there *s3types.BucketAlreadyOwnedByYou
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name}); err != nil && !errors.As(err, &there) {
		return "", fmt.Errorf("local AWS: make bucket: %w", err)
	}
	return name, nil
}

// Key makes a KMS key: to sign with where sign is set, else to encrypt with.
func Key(ctx context.Context, url string, sign bool) (string, error) {
	in := &kms.CreateKeyInput{KeySpec: kmstypes.KeySpecSymmetricDefault, KeyUsage: kmstypes.KeyUsageTypeEncryptDecrypt}
	if sign {
		in.KeySpec, in.KeyUsage = kmstypes.KeySpecEccNistP256, kmstypes.KeyUsageTypeSignVerify
	}
	out, err := kms.NewFromConfig(Config(url)).CreateKey(ctx, in)
	if err != nil {
		return "", fmt.Errorf("local AWS: make key: %w", err)
	}
	return *out.KeyMetadata.KeyId, nil
}

func unique() string { return strings.ToLower(rand.Text()[:12]) }
