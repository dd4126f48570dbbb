package ssh

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/sallyport/sallyport/agent/protocol"
)

var (
	errHostKey = errors.New("the host shows another key than the one that is known")
	errCert    = errors.New("the host shows a certificate that is not good for it")
	errRevoked = errors.New("the host shows a key that is revoked")
	errFamily  = errors.New("the host has no key of this kind")
	errStrict  = errors.New("the host does not do strict key exchange")
)

// maxKeyFile bounds files of public keys.
const maxKeyFile = 1 << 20

// identity says whether a host is the one that is meant.
type identity struct {
	peer        protocol.Peer
	settings    *Settings
	known       ssh.HostKeyCallback // of a known_hosts file; nil: none
	revoked     []ssh.PublicKey
	authorities []ssh.PublicKey // of the file: they sign for hosts, and are none
	// certificates says whether a certificate could make the host known.
	certificates bool
}

// identify reads what a host is known by, afresh for each login, so that a key that is revoked in a file is revoked at once.
func identify(peer protocol.Peer, s *Settings) (*identity, error) {
	id := &identity{peer: peer, settings: s, certificates: len(s.HostCAs) > 0}
	switch peer.Mode {
	case "pin":
		if len(peer.Pin) != sha256.Size {
			return nil, errors.New("the target has no host_key")
		}
	case "verify-full":
		if _, _, err := net.SplitHostPort(peer.ServerName); err != nil || peer.CAFile == "" && len(s.HostCAs) == 0 {
			return nil, errors.New("the target has no name, or nothing that says which keys are the host's")
		}
		if peer.CAFile != "" {
			if err := id.readKnown(peer.CAFile); err != nil {
				return nil, fmt.Errorf("known_hosts: %w", err)
			}
		}
	default:
		return nil, errors.New("the target has no host_key, known_hosts or host_ca")
	}
	if s.RevokedFile == "" {
		return id, nil
	}
	var err error
	if id.revoked, err = readKeys(s.RevokedFile); err != nil {
		return nil, fmt.Errorf("revoked host keys: %w", err)
	}
	return id, nil
}

func (id *identity) readKnown(path string) (err error) {
	b, err := readFile(path)
	if err != nil {
		return err
	}
	for rest := b; ; {
		marker, _, key, _, after, err := ssh.ParseKnownHosts(rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if rest = after; marker == "cert-authority" {
			id.authorities, id.certificates = append(id.authorities, key), true
		}
	}
	id.known, err = knownhosts.New(path)
	return err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(b) > maxKeyFile {
		err = fmt.Errorf("over %d bytes", maxKeyFile)
	}
	return b, err
}

// readKeys reads public keys, one a line. What is not understood could be the one that matters, so that it is an error.
func readKeys(path string) ([]ssh.PublicKey, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseKeys(b)
}

func parseKeys(b []byte) (keys []ssh.PublicKey, err error) {
	for i, line := range bytes.Split(b, []byte{'\n'}) {
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil || len(options) > 0 {
			return nil, fmt.Errorf("line %d is no public key", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// check holds a key that a host proved to have to what is known.
func (id *identity) check(key ssh.PublicKey) error {
	cert, certified := key.(*ssh.Certificate)
	bare := key
	if certified {
		bare = cert.Key
	}
	if id.isRevoked(bare) || certified && id.isRevoked(cert.SignatureKey) {
		return errRevoked
	}
	switch {
	case id.peer.Mode == "pin":
		got := sha256.Sum256(key.Marshal())
		if subtle.ConstantTimeCompare(got[:], id.peer.Pin) != 1 {
			return errHostKey
		}
		return nil
	case certified && cert.Signature.Format == ssh.KeyAlgoRSA && !slices.Contains(id.settings.Algorithms, ssh.KeyAlgoRSA):
		return errCert // signed with SHA-1
	case certified && slices.ContainsFunc(id.settings.HostCAs, func(ca ssh.PublicKey) bool { return same(ca, cert.SignatureKey) }):
		checker := ssh.CertChecker{IsHostAuthority: func(ssh.PublicKey, string) bool { return true }}
		if checker.CheckHostKey(id.peer.ServerName, nowhere, key) != nil {
			return errCert
		}
		return nil
	case id.known == nil && certified:
		return errCert
	case id.known == nil, !certified && slices.ContainsFunc(id.authorities, func(ca ssh.PublicKey) bool { return same(ca, key) }):
		return errHostKey
	}
	err := id.known(id.peer.ServerName, nowhere, key)
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*knownhosts.RevokedError)):
		return errRevoked
	case certified:
		return errCert
	}
	return errHostKey
}

func (id *identity) isRevoked(key ssh.PublicKey) bool {
	return slices.ContainsFunc(id.revoked, func(r ssh.PublicKey) bool { return same(r, key) })
}

func same(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// nowhere is the host's address as far as its key is concerned: it is known by its name.
var nowhere net.Addr = &net.TCPAddr{IP: net.IPv4zero}
