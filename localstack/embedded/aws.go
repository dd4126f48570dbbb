package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/internal/dynamo"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/localstack/localaws"
)

// AWSFileName is DIR/aws.json: which tables, buckets and keys the system has at its local AWS, as settings of internal/stack.
const AWSFileName = "aws.json"

// openAWS opens the same stores as a deployment's, at an emulator on loopback. What is not there yet is made.
func openAWS(ctx context.Context, where, endpoint, dynamodb string) (*stores, error) {
	if dynamodb == "" {
		dynamodb = endpoint
	}
	for _, u := range []string{endpoint, dynamodb} {
		if err := loopback(u); err != nil {
			return nil, err
		}
	}
	settings, err := awsSettings(ctx, filepath.Join(where, AWSFileName), endpoint, dynamodb)
	if err != nil {
		return nil, err
	}
	s := stack.Open(func(name string) string { return settings[name] })
	items, ok := s.Items().(*dynamo.Tables)
	evidence, copies, blobs := s.Evidence(), s.Copies(), s.Blobs()
	if err := s.Err(); err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("local AWS: no tables")
	}
	return &stores{items: items, evidence: evidence, copies: copies, blobs: blobs, keys: awsKeys{ctx, s},
		uploads: func(string) (store.Uploads, http.Handler, error) { return s.Uploads(), nil, s.Err() }, close: func() error { return nil }}, nil
}

// awsKeys are asked for at the start alone, whose context bounds them.
type awsKeys struct {
	ctx context.Context //nolint:containedctx // of the start, as for every function
	s   *stack.Stack
}

func (k awsKeys) Signer(name string) (store.Signer, error) {
	setting, ok := map[string]string{"token": stack.KeyToken, "ca": stack.KeyCA, "checkpoint": stack.KeyCheckpoint}[name]
	if !ok {
		return nil, fmt.Errorf("local AWS: there is no key %q", name)
	}
	return k.s.Signer(k.ctx, setting), k.s.Err()
}

func (k awsKeys) Secret(name string) ([]byte, error) {
	if name != "state" {
		return nil, fmt.Errorf("local AWS: there is no secret %q", name)
	}
	return k.s.StateKey(k.ctx), k.s.Err()
}

// loopback refuses an AWS that is not an emulator of this machine: tables, buckets and keys are made there without asking.
func loopback(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" {
		return fmt.Errorf("--aws %q: want the URL of a local AWS, such as http://127.0.0.1:4566", raw)
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--aws %q: only an emulator on loopback: `sallyport dev` makes tables, buckets and keys there", raw)
	}
	return nil
}

// awsSettings are remembered, so that a restart finds what was stored. An emulator that was started anew has nothing of it.
func awsSettings(ctx context.Context, file, endpoint, dynamodb string) (map[string]string, error) {
	settings := map[string]string{}
	b, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &settings); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	default:
		if err := makeAWS(ctx, settings, endpoint, dynamodb); err != nil {
			return nil, err
		}
	}
	if settings[stack.CopiesBucket] == "" { // also of a system that was made before there were copies
		if settings[stack.CopiesBucket], err = localaws.Bucket(ctx, endpoint); err != nil {
			return nil, err
		}
	}
	settings["AWS_REGION"], settings["AWS_ACCESS_KEY_ID"], settings["AWS_SECRET_ACCESS_KEY"] = localaws.Region, "test", "test"
	settings["AWS_ENDPOINT_URL"], settings["AWS_ENDPOINT_URL_DYNAMODB"] = endpoint, dynamodb
	return settings, writeJSON(file, settings)
}

func makeAWS(ctx context.Context, settings map[string]string, endpoint, dynamodb string) error {
	tables, err := localaws.Tables(ctx, dynamodb)
	if err != nil {
		return err
	}
	settings[stack.TableGrants], settings[stack.TableApprovals] = tables[store.Grants], tables[store.Approvals]
	settings[stack.TableRegistry], settings[stack.TableAudit] = tables[store.Registry], tables[store.Audit]
	for _, name := range []string{stack.BundleBucket, stack.EvidenceBucket} {
		if settings[name], err = localaws.Bucket(ctx, endpoint); err != nil {
			return err
		}
	}
	for _, name := range []string{stack.KeyToken, stack.KeyCA, stack.KeyCheckpoint, stack.KeyState} {
		if settings[name], err = localaws.Key(ctx, endpoint, name != stack.KeyState); err != nil {
			return err
		}
	}
	return nil
}
