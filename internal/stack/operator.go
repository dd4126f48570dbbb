package stack

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/audit"
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
func (s *Stack) CopyEvidence(ctx context.Context, to store.Blobs, heads store.Heads) (Copied, error) {
	from := s.Evidence()
	if s.err != nil {
		return Copied{}, s.err
	}
	return copyEvidence(ctx, from, to, heads)
}

// Copied is what CopyEvidence did.
type Copied struct {
	Objects int
	// Strange are names that no part of the broker gives, left behind: whoever may write to the bucket could keep the log from ever being copied
	// by one that no directory can have.
	Strange []string
}

type readable interface {
	store.Blobs
	store.Heads
}

func copyEvidence(ctx context.Context, from readable, to store.Blobs, heads store.Heads) (c Copied, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy evidence: %w", err)
		}
	}()
	head, err := from.Load(ctx, checkpoint)
	if errors.Is(err, store.ErrNotFound) {
		return c, fmt.Errorf("nothing was sealed yet; a stack signs its first checkpoint within two minutes of its deployment: %w", err)
	}
	if err != nil {
		return c, err
	}
	for _, prefix := range evidence {
		names, err := from.List(ctx, prefix)
		if err != nil {
			return c, err
		}
		for _, name := range names {
			if !audit.OwnName(name) {
				c.Strange = append(c.Strange, name)
				continue
			}
			b, err := from.Open(ctx, name)
			if errors.Is(err, store.ErrTooLarge) { // none of ours is: what should be there is missed when the log is verified
				c.Strange = append(c.Strange, name)
				continue
			}
			if err == nil {
				err = to.Create(ctx, name, b)
			}
			if err != nil {
				return c, err
			}
			c.Objects++
		}
	}
	return c, heads.Swap(ctx, checkpoint, nil, head)
}
