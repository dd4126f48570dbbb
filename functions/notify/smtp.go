package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"time"

	"github.com/sallyport/sallyport/internal/secret"
)

// SMTPConfig names a server that takes our mail. Address is required.
type SMTPConfig struct {
	Address  string        // host:port; STARTTLS is required there
	User     string        // "": no authentication
	Password secret.Secret // of User
	TLS      *tls.Config   // nil: the system's roots, the address's host
}

// SMTP sends over one connection for each message, encrypted by STARTTLS (RFC 3207). A server that does not offer it gets nothing.
type SMTP struct {
	c    SMTPConfig
	host string
}

// NewSMTP checks the configuration.
func NewSMTP(c SMTPConfig) (*SMTP, error) {
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil || host == "" || port == "" {
		return nil, fmt.Errorf("SMTP server %q: want HOST:PORT", c.Address)
	}
	if c.TLS == nil {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c.TLS = c.TLS.Clone()
	c.TLS.ServerName = host
	return &SMTP{c: c, host: host}, nil
}

// errNoTLS: a password or a name in the clear is worse than no mail.
var errNoTLS = errors.New("the server does not offer STARTTLS")

// Send hands the message over. All recipients are taken, or nothing is sent.
func (s *SMTP) Send(ctx context.Context, m Mailing) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("SMTP %s: %w", s.c.Address, err)
		}
	}()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.c.Address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) }) // the exchange fails and tells
	defer stop()
	c, err := smtp.NewClient(conn, s.host)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer c.Close() //nolint:errcheck // Quit has closed it, or it is over anyway
	if ok, _ := c.Extension("STARTTLS"); !ok {
		return errNoTLS
	}
	if err := c.StartTLS(s.c.TLS); err != nil {
		return err
	}
	if s.c.User != "" {
		if err := c.Auth(smtp.PlainAuth("", s.c.User, s.c.Password.Reveal(), s.host)); err != nil {
			return err
		}
	}
	if err := c.Mail(m.From); err != nil {
		return err
	}
	for _, to := range m.To {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(m.Raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // the server has taken the message
	return nil
}
