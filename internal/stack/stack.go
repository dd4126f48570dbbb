// Package stack opens what one deployment on AWS consists of, from the environment variables of a function.
// It refuses a setting that is missing or malformed by its name, and hands out nothing after the first error.
package stack

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/sallyport/sallyport/internal/bundles"
	"github.com/sallyport/sallyport/internal/dynamo"
	"github.com/sallyport/sallyport/internal/kms"
	"github.com/sallyport/sallyport/internal/s3"
	"github.com/sallyport/sallyport/internal/secrets"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// Settings. Region and credentials are the Lambda runtime's own; AWS_ENDPOINT_URL, or the same with _DYNAMODB, _S3 or _KMS behind it,
// names another AWS. A function needs those that it uses, and a table without a name here is closed to it.
const (
	TableGrants    = "SALLYPORT_TABLE_GRANTS"
	TableApprovals = "SALLYPORT_TABLE_APPROVALS"
	TableRegistry  = "SALLYPORT_TABLE_REGISTRY"
	TableAudit     = "SALLYPORT_TABLE_AUDIT"
	BundleBucket   = "SALLYPORT_BUNDLES"  // bucket of policy bundles
	EvidenceBucket = "SALLYPORT_EVIDENCE" // bucket of the log
	CopiesBucket   = "SALLYPORT_COPIES"   // bucket of what is derived from the log, for SQL
	KeyToken       = "SALLYPORT_KEY_TOKEN"
	KeyCA          = "SALLYPORT_KEY_CA"
	KeyCheckpoint  = "SALLYPORT_KEY_CHECKPOINT"
	KeyState       = "SALLYPORT_KEY_STATE" // symmetric
	Issuer         = "SALLYPORT_ISSUER"    // names this deployment in its tokens, everywhere the same; by default the URL
	URL            = "SALLYPORT_URL"       // the functions' public URL; by default the address that a request came to
	Console        = "SALLYPORT_CONSOLE"   // the pages' public URL
	Relays         = "SALLYPORT_RELAYS"    // host:port, separated by commas
	Origin         = "SALLYPORT_ORIGIN"    // names the log
	Epoch          = "SALLYPORT_EPOCH"     // raised when a store was restored; by default 1
	OIDCIssuer     = "SALLYPORT_OIDC_ISSUER"
	OIDCClient     = "SALLYPORT_OIDC_CLIENT" // of the CLI, or of the console, as the function may be
)

// bundleRefresh is how long a replaced policy may still decide.
const bundleRefresh = time.Second

// How long the other side may be silent in one attempt of a call: DynamoDB and KMS answer within milliseconds or not at all, S3 takes
// its time to store what is large.
const (
	attemptLimit = 2 * time.Second
	blobLimit    = 15 * time.Second
)

// Stack is one deployment, as one function sees it. Its methods are for a function's start, in one goroutine; the start's context
// bounds them.
type Stack struct {
	getenv func(string) string
	err    error
	config aws.Config
	items  *dynamo.Tables
	kms    *awskms.Client
	// through says whether a request came through the distribution; nil where there is none
	through func(*http.Request) bool
}

// Open reads the settings that every function has.
func Open(getenv func(string) string) *Stack {
	s := &Stack{getenv: getenv}
	credentials := aws.Credentials{AccessKeyID: s.Setting("AWS_ACCESS_KEY_ID"), SecretAccessKey: s.Setting("AWS_SECRET_ACCESS_KEY"),
		SessionToken: getenv("AWS_SESSION_TOKEN"), Source: "environment"} // those of a Lambda's environment live as long as it
	s.config = aws.Config{Region: s.Setting("AWS_REGION"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil }),
		HTTPClient:  client(attemptLimit)}
	tables := map[string]string{}
	for table, name := range map[string]string{store.Grants: TableGrants, store.Approvals: TableApprovals, store.Registry: TableRegistry, store.Audit: TableAudit} {
		if v := getenv(name); v != "" {
			tables[table] = v
		}
	}
	items, err := dynamo.New(dynamo.Config{AWS: s.at("DYNAMODB"), Tables: tables})
	s.fail(err)
	s.items = items
	s.kms, err = kms.NewClient(s.at("KMS"))
	s.fail(err)
	return s
}

func client(silence time.Duration) *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.ResponseHeaderTimeout, t.MaxIdleConnsPerHost = silence, 64
	})
}

// Err is the first error of all that was asked for.
func (s *Stack) Err() error { return s.err }

func (s *Stack) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// at is the configuration for one service.
func (s *Stack) at(service string) aws.Config {
	c := s.config
	at, err := endpoint(s.getenv, service)
	s.fail(err)
	c.BaseEndpoint = at
	return c
}

// Setting is an environment variable that must be there.
func (s *Stack) Setting(name string) string {
	v := s.getenv(name)
	if v == "" {
		s.fail(fmt.Errorf("%s is not set", name))
	}
	return v
}

// Console is the pages' public URL, without a final slash.
func (s *Stack) Console() string { return strings.TrimSuffix(s.Setting(Console), "/") }

// Items are the tables.
func (s *Stack) Items() store.Items { return s.items }

// Feed is the audit table's.
func (s *Stack) Feed() store.Feed { return s.items }

// Bundles finds the active policy.
func (s *Stack) Bundles() *bundles.Source {
	return bundles.NewSource(s.items, s.bucket(BundleBucket), bundleRefresh)
}

// Evidence is the log's bucket.
func (s *Stack) Evidence() *s3.Bucket { return s.bucket(EvidenceBucket) }

// Copies is the bucket of what is derived from the log.
func (s *Stack) Copies() *s3.Bucket { return s.bucket(CopiesBucket) }

// Uploads are commands that do not fit a call, on their way: beside the bundles, and for a day.
func (s *Stack) Uploads() *s3.Bucket { return s.bucket(BundleBucket) }

func (s *Stack) bucket(name string) *s3.Bucket {
	c := s.at("S3")
	c.HTTPClient = client(blobLimit)
	b, err := s3.New(s3.Config{AWS: c, Bucket: s.Setting(name), PathStyle: c.BaseEndpoint != nil})
	s.fail(err)
	return b
}

// Signer is one of the keys, by the name of its setting.
func (s *Stack) Signer(ctx context.Context, name string) store.Signer {
	id := s.Setting(name)
	if s.err != nil {
		return nil
	}
	k, err := kms.NewSigner(ctx, s.kms, id)
	if err != nil {
		s.fail(fmt.Errorf("%s: %w", name, err))
		return nil
	}
	return k
}

// StateKey is the 32 bytes that seal session state, the same for every function.
func (s *Stack) StateKey(ctx context.Context) []byte {
	id := s.Setting(KeyState)
	if s.err != nil {
		return nil
	}
	b, err := secrets.Load(ctx, s.items, s.kms, id, "state")
	s.fail(err)
	return b
}

// CA signs certificates; it is made where there is none.
func (s *Stack) CA(ctx context.Context) *token.CA {
	k := s.Signer(ctx, KeyCA)
	if s.err != nil {
		return nil
	}
	ca, err := token.LoadCA(ctx, s.items, k, time.Now())
	s.fail(err)
	return ca
}

// CACertificate is what the functions need that only verify. There is none before functions/token or functions/enroll has started.
func (s *Stack) CACertificate(ctx context.Context) *x509.Certificate {
	if s.err != nil {
		return nil
	}
	cert, err := token.ReadCA(ctx, s.items)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("no agent can be known yet: functions/token or functions/enroll makes the CA at its first start: %w", err)
	}
	s.fail(err)
	return cert
}

// Issuer signs tokens; the verifier knows them.
func (s *Stack) Issuer(ctx context.Context) (*token.Issuer, *token.Verifier) {
	k, name, epoch := s.Signer(ctx, KeyToken), s.issuer(), s.epoch()
	if s.err != nil {
		return nil, nil
	}
	return token.NewIssuer(name, k, epoch), token.NewVerifier(name, epoch, k.Public())
}

// Verifier verifies tokens. Its function needs kms:GetPublicKey on the key, not kms:Sign.
func (s *Stack) Verifier(ctx context.Context) *token.Verifier {
	k, name, epoch := s.Signer(ctx, KeyToken), s.issuer(), s.epoch()
	if s.err != nil {
		return nil
	}
	return token.NewVerifier(name, epoch, k.Public())
}

func (s *Stack) issuer() string {
	if v := s.getenv(Issuer); v != "" {
		return v
	}
	if s.getenv(URL) == "" {
		s.fail(fmt.Errorf("%s or %s must be set", Issuer, URL))
	}
	return s.getenv(URL)
}

func (s *Stack) epoch() int64 {
	v := s.getenv(Epoch)
	if v == "" {
		return 1
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > token.MaxEpoch {
		s.fail(fmt.Errorf("%s=%q is not a number from 1 to %d", Epoch, v, token.MaxEpoch))
	}
	return n
}

// Relays are the relays that clients and agents are told.
func (s *Stack) Relays() []string {
	var relays []string
	for r := range strings.SplitSeq(s.getenv(Relays), ",") {
		if r = strings.TrimSpace(r); r != "" {
			relays = append(relays, r)
		}
	}
	return relays
}
