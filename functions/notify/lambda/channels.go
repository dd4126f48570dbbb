package main

import (
	"context"

	"github.com/sallyport/sallyport/functions/notify"
	"github.com/sallyport/sallyport/internal/ses"
	"github.com/sallyport/sallyport/internal/stack"
)

// channels adds to the configuration what the deployment's settings name.
func channels(c notify.Config, s stack.Notify) (notify.Config, error) {
	c.From, c.To = s.From, s.To
	if s.Server != "" && s.From != "" {
		m, err := notify.NewSMTP(notify.SMTPConfig{Address: s.Server, User: s.User, Password: s.Password})
		if err != nil {
			return c, err
		}
		c.Mail = m
	} else if s.SES != nil {
		c.Mail = bySES{s.SES}
	}
	if s.Webhook != "" {
		w, err := notify.NewWebhook(notify.WebhookConfig{URL: s.Webhook, Key: []byte(s.Key.Reveal())})
		if err != nil {
			return c, err
		}
		c.Hook = w
	}
	return c, nil
}

type bySES struct{ mailer *ses.Mailer }

func (m bySES) Send(ctx context.Context, mail notify.Mailing) error {
	return m.mailer.Send(ctx, mail.From, mail.To, mail.Raw)
}
