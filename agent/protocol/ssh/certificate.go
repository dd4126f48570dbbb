package ssh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/access"
)

// extensions of certificates that a target's settings ask for (OpenSSH PROTOCOL.certkeys).
const (
	permitPTY        = "permit-pty"
	permitForwarding = "permit-port-forwarding"
	forceCommand     = "force-command"
	sourceAddress    = "source-address"
)

// authOf is how a session logs in. A private key is taken for what it is, and everything else for a password.
func authOf(s *protocol.Session, settings *Settings, now time.Time) ([]ssh.AuthMethod, error) {
	secret := s.Login.Password.Reveal()
	if secret == "" {
		return nil, errors.New("the credential is empty")
	}
	if !strings.HasPrefix(strings.TrimSpace(secret), "-----BEGIN ") {
		if settings.Certificate != nil {
			return nil, errors.New("the credential is no private key: a CA's is wanted")
		}
		return []ssh.AuthMethod{ssh.Password(secret), ssh.KeyboardInteractive(answerOnce(secret))}, nil
	}
	signer, err := ssh.ParsePrivateKey(append(bytes.TrimSpace([]byte(secret)), '\n'))
	if err != nil {
		return nil, errors.New("the private key cannot be read: want one without a passphrase, in OpenSSH's format or PEM")
	}
	if settings.Certificate != nil {
		if signer, err = issue(signer, s, settings, now); err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
	}
	return []ssh.AuthMethod{ssh.PublicKeys(signer)}, nil
}

// answerOnce answers the one question of a host that asks for a password so (RFC 4256). One that asks for more, or shows what it is told, is not
// told the password again.
func answerOnce(secret string) ssh.KeyboardInteractiveChallenge {
	asked := false
	return func(_, _ string, questions []string, echo []bool) ([]string, error) {
		switch {
		case len(questions) == 0:
			return nil, nil
		case asked || len(questions) > 1 || echo[0]:
			return nil, errors.New("the host asks for more than a password")
		}
		asked = true
		return []string{secret}, nil
	}
}

// issue signs a certificate for a key that nobody had before and that is never written down: one for each session, so that what the host
// logs names the session.
func issue(ca ssh.Signer, s *protocol.Session, settings *Settings, now time.Time) (ssh.Signer, error) {
	if err := settings.Certificate.check(); err != nil {
		return nil, err
	}
	if algorithms, ok := ca.(ssh.MultiAlgorithmSigner); ok && ca.PublicKey().Type() == ssh.KeyAlgoRSA {
		modern, err := ssh.NewSignerWithAlgorithms(algorithms, []string{ssh.KeyAlgoRSASHA512})
		if err != nil {
			return nil, err
		}
		ca = modern
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	cert, err := certificate(key, s.ID, s.Login.User, settings, now)
	if err != nil {
		return nil, err
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		return nil, err
	}
	own, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(cert, own)
}

// certificate is what is signed: no more than the target's settings need.
func certificate(key ssh.PublicKey, id access.SessionID, user string, settings *Settings, now time.Time) (*ssh.Certificate, error) {
	c := settings.Certificate
	var serial [8]byte
	if _, err := rand.Read(serial[:]); err != nil {
		return nil, err
	}
	cert := &ssh.Certificate{
		Key: key, Serial: binary.BigEndian.Uint64(serial[:]), CertType: ssh.UserCert, KeyId: "sallyport session " + string(id), ValidPrincipals: c.Principals,
		ValidAfter: uint64(now.Add(-skew).Unix()), ValidBefore: uint64(now.Add(c.Validity).Unix()),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{}, Extensions: map[string]string{}},
	}
	if len(cert.ValidPrincipals) == 0 {
		cert.ValidPrincipals = []string{user}
	}
	if c.ForceCommand != "" {
		cert.CriticalOptions[forceCommand] = c.ForceCommand
	}
	if len(c.SourceAddress) > 0 {
		cert.CriticalOptions[sourceAddress] = strings.Join(c.SourceAddress, ",")
	}
	if len(settings.Shells) > 0 {
		cert.Extensions[permitPTY] = ""
	}
	if settings.Forward || settings.Listen {
		cert.Extensions[permitForwarding] = ""
	}
	return cert, nil
}
