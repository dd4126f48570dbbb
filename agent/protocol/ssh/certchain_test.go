package ssh

import (
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/protocol"
)

// SS-11: a certificate is signed by an authority's own key, never by a key that the authority has certified.
func TestSS11_NoChains(t *testing.T) {
	t.Parallel()
	host, _ := newSigner(t)
	middle, _ := newSigner(t)
	last, _ := newSigner(t)
	ca, _ := newSigner(t)
	certified := func(s ssh.Signer, by ssh.Signer, change func(*ssh.Certificate)) ssh.Signer {
		signer, err := ssh.NewCertSigner(hostCert(t, s.PublicKey(), by, change), s)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}
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
		"by a host's certificate":            hostCert(t, host.PublicKey(), certified(middle, ca, nil), nil),
		"by a user's certificate":            hostCert(t, host.PublicKey(), certified(middle, ca, asUser), nil),
		"by a chain of two":                  hostCert(t, host.PublicKey(), certified(last, certified(middle, ca, nil), nil), nil),
		"by its own certificate":             hostCert(t, host.PublicKey(), certified(host, ca, nil), nil),
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
