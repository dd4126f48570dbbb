package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/secret"
	"github.com/sallyport/sallyport/localstack/embedded"
)

// notifyFlags are the files that hold what must not stand on a command line.
type notifyFlags struct{ password, key string }

func (n *notifyFlags) flags(cmd *cobra.Command, c *embedded.Notify) {
	f := cmd.Flags()
	f.StringVar(&c.MailFile, "notify-file", "", "append e-mails to reviewers to this file")
	f.StringVar(&c.SMTP, "notify-smtp", "", "send them through this server, HOST:PORT with STARTTLS")
	f.StringVar(&c.SMTPUser, "notify-smtp-user", "", "user at that server")
	f.StringVar(&n.password, "notify-smtp-password-file", "", "file with the user's password")
	f.StringVar(&c.From, "notify-from", "", "the sender's address")
	f.StringSliceVar(&c.To, "notify-to", nil, "address of a reviewer; may be given more than once")
	f.StringVar(&c.Webhook, "notify-webhook", "", "post approvals to this URL, signed")
	f.StringVar(&n.key, "notify-webhook-key-file", "", "file with the key that signs them, 32 bytes or more")
}

func (n *notifyFlags) read(c *embedded.Notify) error {
	for _, f := range []struct {
		path string
		to   *secret.Secret
	}{{n.password, &c.Password}, {n.key, &c.WebhookKey}} {
		if f.path == "" {
			continue
		}
		s, err := oneSecret(f.path)
		if err != nil {
			return err
		}
		*f.to = s
	}
	if c.Webhook != "" && n.key == "" {
		return api.Because(api.ErrBadRequest, "head -c 32 /dev/urandom | base64 makes one", "--notify-webhook needs --notify-webhook-key-file")
	}
	return nil
}

// maxSecret bounds a file with a secret.
const maxSecret = 4 << 10

// oneSecret reads a file that only its owner can.
func oneSecret(path string) (secret.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("secret: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	st, err := f.Stat()
	if err != nil {
		return secret.Secret{}, fmt.Errorf("secret: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return secret.Secret{}, fmt.Errorf("secret: %s: others can read it (mode %04o)", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return secret.Secret{}, fmt.Errorf("secret: %w", err)
	}
	return secret.New(strings.TrimRight(string(b), "\r\n")), nil
}
