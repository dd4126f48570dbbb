package stack

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/internal/bundles"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/s3"
	"github.com/sallyport/sallyport/internal/store"
)

// outputs say which output of infra/template.yaml an operator's setting is taken from.
var outputs = map[string]string{
	TableGrants: "GrantsTable", TableApprovals: "ApprovalsTable", TableRegistry: "RegistryTable", TableAudit: "AuditTable",
	BundleBucket: "BlobsBucket", EvidenceBucket: "EvidenceBucket", KeyToken: "TokenKey", KeyCA: "CaKey", KeyCheckpoint: "CheckpointKey", KeyState: "StateKey",
	Issuer: "Issuer", Origin: "LogName",
}

// FromOutputs is an environment for Open: the deployment's settings from its stack's outputs, everything else (credentials, region)
// from getenv.
func FromOutputs(out map[string]string, getenv func(string) string) func(string) string {
	return func(name string) string {
		if o, ok := outputs[name]; ok {
			return out[o]
		}
		if v := getenv(name); name != "AWS_REGION" || v != "" {
			return v
		}
		return getenv("AWS_DEFAULT_REGION")
	}
}

// Blobs is the bucket of policy bundles.
func (s *Stack) Blobs() *s3.Bucket { return s.bucket(BundleBucket) }

// Init makes what a new deployment has not: the CA's certificate and the secret that seals sessions. It may be called again.
func (s *Stack) Init(ctx context.Context) error {
	s.CA(ctx)
	s.StateKey(ctx)
	return s.err
}

// Publish makes a policy the active one.
func (s *Stack) Publish(ctx context.Context, b *policy.Bundle) error {
	blobs := s.bucket(BundleBucket)
	if s.err != nil {
		return s.err
	}
	return bundles.Publish(ctx, s.items, blobs, b)
}

// evidence names what there is in the log's bucket.
var evidence = []string{"entries/", "tile/", "recordings/", "bodies/"}

// checkpoint is the log's head.
const checkpoint = "checkpoint"

// CopyEvidence copies the log to another store, its checkpoint first: what is sealed meanwhile is not missed by it.
func (s *Stack) CopyEvidence(ctx context.Context, to store.Blobs, heads store.Heads) (objects int, err error) {
	from := s.Evidence()
	if s.err != nil {
		return 0, s.err
	}
	head, err := from.Load(ctx, checkpoint)
	if err != nil {
		return 0, fmt.Errorf("copy evidence: %w", err)
	}
	for _, prefix := range evidence {
		names, err := from.List(ctx, prefix)
		if err != nil {
			return objects, fmt.Errorf("copy evidence: %w", err)
		}
		for _, name := range names {
			b, err := from.Open(ctx, name)
			if err == nil {
				err = to.Create(ctx, name, b)
			}
			if err != nil {
				return objects, fmt.Errorf("copy evidence: %w", err)
			}
			objects++
		}
	}
	if err := heads.Swap(ctx, checkpoint, nil, head); err != nil {
		return objects, fmt.Errorf("copy evidence: %w", err)
	}
	return objects, nil
}
