// Package sigv4 signs calls, and makes tokens for databases, with the AWS identity of where a process runs: its environment, web identity, container or instance.
// It refuses to guess: what the environment names is used or fails, credentials come over TLS or from this machine, and unsigned nothing leaves.
package sigv4

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/sallyport/sallyport/internal/secret"
)

// Config says what is called. Region and Getenv are required.
type Config struct {
	Region string
	Getenv func(string) string
	Now    func() time.Time // nil: time.Now
}

// service is the name that function URLs are signed for.
const service = "lambda"

const (
	// fetchLimit is for one attempt to get credentials; they come from this machine, or from STS.
	fetchLimit = 5 * time.Second
	// early is how long before their end credentials are fetched anew, so that none ends on its way.
	early = 5 * time.Minute
)

// Signer signs. It is safe for concurrent use.
type Signer struct {
	region string
	source string
	creds  aws.CredentialsProvider
	signer *v4.Signer
	now    func() time.Time
}

// New finds where credentials come from, without asking for them yet. The order is that of AWS's own programs, by what the environment names.
func New(c Config) (*Signer, error) {
	if c.Region == "" || c.Getenv == nil {
		return nil, errors.New("AWS identity: a region is required")
	}
	s := &Signer{region: c.Region, now: c.Now, signer: v4.NewSigner()}
	if s.now == nil {
		s.now = time.Now
	}
	p, source, err := provider(c)
	if err != nil {
		return nil, fmt.Errorf("AWS identity: %w", err)
	}
	s.source = source
	s.creds = aws.NewCredentialsCache(p, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = early })
	return s, nil
}

// Source says where credentials come from, for people.
func (s *Signer) Source() string { return s.source }

func provider(c Config) (aws.CredentialsProvider, string, error) {
	env := c.Getenv
	client := &http.Client{Timeout: fetchLimit, Transport: &http.Transport{IdleConnTimeout: 10 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	switch {
	case env("AWS_ACCESS_KEY_ID") != "":
		if env("AWS_SECRET_ACCESS_KEY") == "" {
			return nil, "", errors.New("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not")
		}
		return credentials.NewStaticCredentialsProvider(env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN")), "environment", nil
	case env("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		p, err := webIdentity(c, client)
		return p, "web identity", err
	case env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || env("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "":
		p, err := container(env, client)
		return p, "container", err
	case strings.EqualFold(env("AWS_EC2_METADATA_DISABLED"), "true"):
		return nil, "", errors.New("the environment names no credentials, and AWS_EC2_METADATA_DISABLED is set")
	}
	o := imds.Options{HTTPClient: client, EnableFallback: aws.FalseTernary} // IMDSv2 alone: the first version answers whoever asks
	if at := env("AWS_EC2_METADATA_SERVICE_ENDPOINT"); at != "" {
		if err := near(at); err != nil {
			return nil, "", fmt.Errorf("AWS_EC2_METADATA_SERVICE_ENDPOINT: %w", err)
		}
		o.Endpoint = at
	}
	return ec2rolecreds.New(func(r *ec2rolecreds.Options) { r.Client = imds.New(o) }), "instance", nil
}

func webIdentity(c Config, client *http.Client) (aws.CredentialsProvider, error) {
	role := c.Getenv("AWS_ROLE_ARN")
	if role == "" {
		return nil, errors.New("AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not")
	}
	o := sts.Options{Region: c.Region, HTTPClient: client, Credentials: aws.AnonymousCredentials{}}
	for _, name := range []string{"AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"} {
		if v := c.Getenv(name); v != "" {
			if err := secure(v); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			o.BaseEndpoint = &v
			break
		}
	}
	return stscreds.NewWebIdentityRoleProvider(sts.New(o), role, stscreds.IdentityTokenFile(c.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE")), func(w *stscreds.WebIdentityRoleOptions) {
		w.RoleSessionName = c.Getenv("AWS_ROLE_SESSION_NAME") // "": the SDK makes one
	}), nil
}

// containerHost is ECS's agent.
const containerHost = "http://169.254.170.2"

func container(env func(string) string, client *http.Client) (aws.CredentialsProvider, error) {
	at := env("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if path := env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); path != "" {
		if !strings.HasPrefix(path, "/") {
			return nil, errors.New("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is no path")
		}
		at = containerHost + path
	}
	if err := near(at); err != nil {
		return nil, fmt.Errorf("AWS_CONTAINER_CREDENTIALS_FULL_URI: %w", err)
	}
	return endpointcreds.New(at, func(o *endpointcreds.Options) {
		o.HTTPClient = client
		o.AuthorizationToken = env("AWS_CONTAINER_AUTHORIZATION_TOKEN")
		if path := env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); path != "" {
			o.AuthorizationTokenProvider = tokenFile(path) // EKS replaces it while we run
		}
	}), nil
}

type tokenFile string

// GetToken reads the file.
func (f tokenFile) GetToken() (string, error) {
	b, err := os.ReadFile(string(f))
	if err != nil {
		return "", err
	}
	if t := strings.TrimSpace(string(b)); t != "" && !strings.ContainsAny(t, "\r\n") {
		return t, nil
	}
	return "", errors.New("the container's authorization token is empty, or of several lines")
}

// secure says whether what is asked for at a URL can be believed: TLS, or this machine.
func secure(at string) error {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.User != nil {
		return errors.New("not a URL")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()) {
		return nil
	}
	return errors.New("neither https nor loopback")
}

// near is secure, or one of AWS's own addresses on the link: ECS, EKS and EC2 answer there in plain HTTP.
func near(at string) error {
	u, err := url.Parse(at)
	if err == nil && u.Scheme == "http" && u.User == nil {
		switch u.Hostname() {
		case "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "169.254.169.254", "fd00:ec2::254":
			return nil
		}
	}
	return secure(at)
}

// databaseLife is how long a database takes a token for a login, as AWS has it; sessions outlive it.
const databaseLife = "900"

// DatabaseToken is a password for one login to RDS or Aurora with IAM authentication, good for 15 minutes at this endpoint (HOST:PORT) as this
// user alone. It is made here: nobody is asked, and the identity needs rds-db:connect.
func (s *Signer) DatabaseToken(ctx context.Context, endpoint, user string) (secret.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*fetchLimit)
	defer cancel()
	c, err := s.creds.Retrieve(ctx)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("AWS identity (%s): %w", s.source, err)
	}
	q := url.Values{"Action": {"connect"}, "DBUser": {user}, "X-Amz-Expires": {databaseLife}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+endpoint+"/?"+q.Encode(), nil)
	if err != nil {
		return secret.Secret{}, errors.New("database token: the endpoint is not HOST:PORT")
	}
	empty := sha256.Sum256(nil)
	signed, _, err := s.signer.PresignHTTP(ctx, c, req, hex.EncodeToString(empty[:]), "rds-db", s.region, s.now())
	if err != nil {
		return secret.Secret{}, fmt.Errorf("database token: %w", err)
	}
	return secret.New(strings.TrimPrefix(signed, "https://")), nil
}

// Sign signs a request as it is, its body included; only what AWS may change on the way, or we add later, is not covered.
func (s *Signer) Sign(ctx context.Context, req *http.Request, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*fetchLimit)
	defer cancel()
	c, err := s.creds.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("AWS identity (%s): %w", s.source, err)
	}
	h := sha256.Sum256(body)
	if err := s.signer.SignHTTP(ctx, c, req, hex.EncodeToString(h[:]), service, s.region, s.now()); err != nil {
		return fmt.Errorf("sign by AWS identity: %w", err)
	}
	return nil
}
