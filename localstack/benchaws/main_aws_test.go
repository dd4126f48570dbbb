//go:build aws

package main

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sallyport/sallyport/localstack/localaws"
)

// What a person would run in an account: it measures, prints what it measured, and leaves nothing.
func TestInAnAccount(t *testing.T) {
	server, err := localaws.MiniStack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var out strings.Builder
	if err := run(t.Context(), []string{"-endpoint", server.URL, "-calls", "100", "-starts", "3", "-agents", "10"}, func(string) string { return "" }, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"a warm call of 1, from here", "a warm call of 64, from here", "2 agents at once", "Removed: everything named sallyport-bench-"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "0.00 / 0.00") {
		t.Errorf("a figure that nobody took:\n%s", out.String())
	}
	left(t, server.URL)
}

// An interrupted run leaves nothing either.
func TestInterrupted(t *testing.T) {
	server, err := localaws.MiniStack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	out := &cutter{at: "| decide in an account", cut: cancel}
	if err := run(ctx, []string{"-endpoint", server.URL, "-calls", "100", "-starts", "3", "-agents", "10"}, func(string) string { return "" }, out); err == nil {
		t.Fatal("it went on")
	}
	left(t, server.URL)
}

// cutter cuts the run when it prints something.
type cutter struct {
	at  string
	cut func()
}

func (c *cutter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.at) {
		c.cut()
	}
	return len(b), nil
}

func left(t *testing.T, at string) {
	t.Helper()
	c := localaws.Config(at)
	tables, err := dynamodb.NewFromConfig(c).ListTables(t.Context(), &dynamodb.ListTablesInput{})
	if err != nil || len(tables.TableNames) != 0 {
		t.Errorf("%v %v", tables, err)
	}
	buckets, err := s3.NewFromConfig(c, func(o *s3.Options) { o.UsePathStyle = true }).ListBuckets(t.Context(), &s3.ListBucketsInput{})
	if err != nil || len(buckets.Buckets) != 0 {
		t.Errorf("%v %v", buckets, err)
	}
	keys := kms.NewFromConfig(c)
	all, err := keys.ListKeys(t.Context(), &kms.ListKeysInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all.Keys {
		if d, err := keys.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: k.KeyId}); err != nil || d.KeyMetadata.DeletionDate == nil {
			t.Errorf("key %s stays: %v", aws.ToString(k.KeyId), err)
		}
	}
}
