package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/functions/notify"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/internal/store"
)

// Notify says who is told of approvals, by the handler that runs on AWS. The zero Notify tells nobody.
type Notify struct {
	MailFile   string // e-mails are appended here, each after a line "From …"; "" sends none, unless SMTP is set
	SMTP       string // host:port with STARTTLS
	SMTPUser   string
	Password   secret.Secret
	From       string // "": sallyport@localhost.localdomain
	To         []string
	Webhook    string // https, or http on loopback; private addresses are permitted here
	WebhookKey secret.Secret
}

// sweepApprovals is how often the embedded twin looks: it has no stream.
const sweepApprovals = time.Second

// notifier is nil where nobody is to be told.
func (n Notify) notifier(items store.Items, console string, log *slog.Logger) (*notify.Notifier, error) {
	c := notify.Config{Items: items, Console: console, From: n.From, To: n.To, Log: log}
	if c.From == "" {
		c.From = "sallyport@localhost.localdomain"
	}
	switch {
	case n.SMTP != "" && n.MailFile != "":
		return nil, errors.New("e-mails go to a file or to a server, not to both")
	case n.SMTP != "":
		m, err := notify.NewSMTP(notify.SMTPConfig{Address: n.SMTP, User: n.SMTPUser, Password: n.Password})
		if err != nil {
			return nil, err
		}
		c.Mail = m
	case n.MailFile != "":
		c.Mail = &mailFile{path: n.MailFile}
		if len(c.To) == 0 {
			c.To = []string{"reviewers@localhost.localdomain"}
		}
	}
	if n.Webhook != "" {
		w, err := notify.NewWebhook(notify.WebhookConfig{URL: n.Webhook, Key: []byte(n.WebhookKey.Reveal()), Private: true})
		if err != nil {
			return nil, err
		}
		c.Hook = w
	}
	if c.Mail == nil && c.Hook == nil {
		return nil, nil //nolint:nilnil // nobody is to be told
	}
	return notify.New(c)
}

// notifying tells until ctx ends.
func notifying(ctx context.Context, n *notify.Notifier, log *slog.Logger) {
	tick := time.NewTicker(sweepApprovals)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Warn("notify", "error", err)
		}
	}
}

// mailFile is a mailbox of the mbox kind (RFC 4155).
type mailFile struct {
	path string
	mu   sync.Mutex
}

// Send appends the message, durably.
func (m *mailFile) Send(_ context.Context, mail notify.Mailing) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := os.OpenFile(m.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("mail file: %w", err)
	}
	text := strings.ReplaceAll(strings.ReplaceAll(string(mail.Raw), "\r\n", "\n"), "\nFrom ", "\n>From ")
	_, err = fmt.Fprintf(f, "From %s %s\n%s\n\n", mail.From, time.Now().UTC().Format(time.ANSIC), text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
