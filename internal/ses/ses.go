// Package ses hands e-mails to Amazon SES.
// It refuses to wait longer than its caller, and leaves repeating to whoever keeps the outbox.
package ses

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sesv2"
	"github.com/aws/aws-sdk-go-v2/service/sesv2/types"
)

// Mailer sends whole messages (RFC 5322).
type Mailer struct{ client *sesv2.Client }

// New makes one. c carries region, credentials, endpoint and HTTP client. Calls are not repeated here: one that was repeated after its answer was
// lost would send twice what the outbox could have told apart.
func New(c aws.Config) (*Mailer, error) {
	if c.Region == "" || c.Credentials == nil {
		return nil, errors.New("ses: a region and credentials are required")
	}
	return &Mailer{sesv2.NewFromConfig(c, func(o *sesv2.Options) { o.Retryer = aws.NopRetryer{} })}, nil
}

// Send hands one message over for all its recipients.
func (m *Mailer) Send(ctx context.Context, from string, to []string, raw []byte) error {
	_, err := m.client.SendEmail(ctx, &sesv2.SendEmailInput{FromEmailAddress: &from, Destination: &types.Destination{ToAddresses: to},
		Content: &types.EmailContent{Raw: &types.RawMessage{Data: raw}}})
	if err != nil {
		return fmt.Errorf("ses: %w", err)
	}
	return nil
}
