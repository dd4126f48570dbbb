package stack

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/ses"
)

// Settings of functions/notify. All may be missing: then nobody is told, and only the figures are kept.
const (
	MailFrom      = "SALLYPORT_MAIL_FROM"      // address of the sender
	MailTo        = "SALLYPORT_MAIL_TO"        // addresses of the reviewers, separated by commas
	SMTP          = "SALLYPORT_SMTP"           // host:port with STARTTLS; by default SES
	SMTPUser      = "SALLYPORT_SMTP_USER"      // without one nobody logs in there
	SMTPSecret    = "SALLYPORT_SMTP_SECRET"    // name or ARN of the user's password in Secrets Manager
	WebhookURL    = "SALLYPORT_WEBHOOK_URL"    // an https URL
	WebhookSecret = "SALLYPORT_WEBHOOK_SECRET" // name or ARN of the webhook's key in Secrets Manager
)

// Notify are the settings of functions/notify.
type Notify struct {
	From     string
	To       []string
	Server   string      // "": SES
	SES      *ses.Mailer // nil: no mail, or Server
	User     string
	Password secret.Secret
	Webhook  string
	Key      secret.Secret // of the webhook
}

// secretLimit bounds a call to Secrets Manager.
const secretLimit = 10 * time.Second

// Notify reads the settings and, where something of them needs it, the secret.
func (s *Stack) Notify(ctx context.Context) Notify {
	n := Notify{From: s.getenv(MailFrom), Server: s.getenv(SMTP), User: s.getenv(SMTPUser), Webhook: s.getenv(WebhookURL)}
	for to := range strings.SplitSeq(s.getenv(MailTo), ",") {
		if to = strings.TrimSpace(to); to != "" {
			n.To = append(n.To, to)
		}
	}
	if (n.From == "") != (len(n.To) == 0) {
		s.fail(fmt.Errorf("%s and %s go together", MailFrom, MailTo))
	}
	if n.Webhook != "" {
		n.Key = s.secret(ctx, WebhookSecret)
	}
	if n.User != "" {
		n.Password = s.secret(ctx, SMTPSecret)
	}
	if n.From != "" && n.Server == "" && s.err == nil {
		m, err := ses.New(s.at("SESV2"))
		s.fail(err)
		n.SES = m
	}
	return n
}

// secret is what Secrets Manager has under the name in a setting.
func (s *Stack) secret(ctx context.Context, setting string) secret.Secret {
	id := s.Setting(setting)
	if s.err != nil {
		return secret.Secret{}
	}
	ctx, cancel := context.WithTimeout(ctx, secretLimit)
	defer cancel()
	out, err := secretsmanager.NewFromConfig(s.at("SECRETS_MANAGER")).GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &id})
	if err == nil && aws.ToString(out.SecretString) == "" {
		err = errors.New("the secret is no text, or empty")
	}
	if err != nil {
		s.fail(fmt.Errorf("%s: %w", setting, err))
		return secret.Secret{}
	}
	return secret.New(*out.SecretString)
}
