package ssh

import (
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
)

// signedBy is a certificate whose authority is a certificate, with a signature that is right: the library makes none.
func signedBy(t *testing.T, key ssh.PublicKey, authority *ssh.Certificate, signer ssh.Signer) *ssh.Certificate {
	t.Helper()
	c := hostCert(t, key, signer, nil)
	c.SignatureKey, c.Signature = authority, nil
	unsigned := c.Marshal()
	var err error
	if c.Signature, err = signer.Sign(rand.Reader, unsigned[:len(unsigned)-4]); err != nil { // without the length of no signature
		t.Fatal(err)
	}
	return c
}

// SS-11: a certificate is signed by an authority's own key, never by a key that the authority has certified.
func TestSS11_NoChains(t *testing.T) {
	t.Parallel()
	host, _ := newSigner(t)
	middle, _ := newSigner(t)
	last, _ := newSigner(t)
	ca, _ := newSigner(t)
	asUser := func(c *ssh.Certificate) { c.CertType = ssh.UserCert }
	swapped := hostCert(t, host.PublicKey(), middle, nil) // signed plainly; the certificate of the key is put in afterwards
	swapped.SignatureKey = hostCert(t, middle.PublicKey(), ca, nil)
	const name = "web.internal:2222"
	inFile := protocol.Peer{Mode: "verify-full", ServerName: name, CAFile: write(t, "ca", "@cert-authority [*.internal]:2222 "+line1(ca.PublicKey())+"\n")}
	named := protocol.Peer{Mode: "verify-full", ServerName: name}
	if _, err := identify(inFile, &Settings{}); err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]ssh.PublicKey{
		"by a host's certificate":            signedBy(t, host.PublicKey(), hostCert(t, middle.PublicKey(), ca, nil), middle),
		"by a user's certificate":            signedBy(t, host.PublicKey(), hostCert(t, middle.PublicKey(), ca, asUser), middle),
		"by a chain of two":                  signedBy(t, host.PublicKey(), signedBy(t, last.PublicKey(), hostCert(t, middle.PublicKey(), ca, nil), middle), last),
		"by its own certificate":             signedBy(t, host.PublicKey(), hostCert(t, host.PublicKey(), ca, nil), host),
		"by a certificate put in afterwards": swapped,
		"by a key that was only certified":   hostCert(t, host.PublicKey(), middle, nil),
	} {
		for how, c := range map[string]struct {
			peer     protocol.Peer
			settings Settings
		}{"host_ca": {named, Settings{HostCAs: []ssh.PublicKey{ca.PublicKey()}}}, "known_hosts": {inFile, Settings{}}} {
			id, err := identify(c.peer, &c.settings)
			if err != nil {
				t.Fatal(err)
			}
			if err := id.check(key); err == nil {
				t.Errorf("%s, by %s: it passes", what, how)
			}
		}
	}
}
