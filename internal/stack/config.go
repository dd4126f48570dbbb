package stack

import (
	"context"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Config is how an operator's program reaches one service of AWS, from the environment alone: no files, no instance metadata.
func Config(getenv func(string) string, service string) (aws.Config, error) {
	region := getenv("AWS_REGION")
	if region == "" {
		region = getenv("AWS_DEFAULT_REGION")
	}
	credentials := aws.Credentials{AccessKeyID: getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: getenv("AWS_SESSION_TOKEN"), Source: "environment"}
	switch {
	case credentials.AccessKeyID == "" || credentials.SecretAccessKey == "":
		return aws.Config{}, fmt.Errorf("AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set")
	case region == "":
		return aws.Config{}, fmt.Errorf("AWS_REGION is not set")
	}
	c := aws.Config{Region: region, HTTPClient: client(blobLimit),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil })}
	var err error
	c.BaseEndpoint, err = endpoint(getenv, service)
	return c, err
}

// endpoint is where another AWS answers for a service; nil for AWS itself.
func endpoint(getenv func(string) string, service string) (*string, error) {
	for _, name := range []string{"AWS_ENDPOINT_URL_" + service, "AWS_ENDPOINT_URL"} {
		v := getenv(name)
		if v == "" {
			continue
		}
		if u, err := url.Parse(v); err != nil || u.Host == "" {
			return nil, fmt.Errorf("%s=%q is not a URL", name, v)
		}
		return &v, nil
	}
	return nil, nil
}
