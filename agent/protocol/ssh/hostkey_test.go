package ssh

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/internal/secret"
)

func newSigner(t testing.TB) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, key)
}

func signerOf(t testing.TB, key any) (ssh.Signer, string) {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, string(pem.EncodeToMemory(block))
}

func line1(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostCert is a certificate for a host, changed before it is signed.
func hostCert(t testing.TB, key ssh.PublicKey, ca ssh.Signer, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidPrincipals: []string{"web.internal"}, Serial: 7,
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix())}
	if change != nil {
		change(c)
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	host, _ := newSigner(t)
	other, _ := newSigner(t)
	ca, _ := newSigner(t)
	good := hostCert(t, host.PublicKey(), ca, nil)
	byCert := hostCert(t, host.PublicKey(), other, nil) // signed by a key that its authority has certified
	byCert.SignatureKey = hostCert(t, other.PublicKey(), ca, nil)
	const name = "web.internal:2222"
	known := write(t, "known", knownhosts.Line([]string{name}, host.PublicKey())+"\n")
	knownCA := write(t, "knownca", "@cert-authority [*.internal]:2222 "+line1(ca.PublicKey())+"\n")
	knownRevoked := write(t, "knownrevoked", knownhosts.Line([]string{name}, host.PublicKey())+"\n@revoked * "+line1(host.PublicKey())+"\n")
	inFile := func(path string) protocol.Peer {
		return protocol.Peer{Mode: "verify-full", ServerName: name, CAFile: path}
	}
	byCA := Settings{HostCAs: []ssh.PublicKey{ca.PublicKey()}}
	named := protocol.Peer{Mode: "verify-full", ServerName: name}
	revoked := func(k ssh.PublicKey) string { return write(t, "revoked", "# gone\n"+line1(k)+" comment\n") }
	for what, c := range map[string]struct {
		peer     protocol.Peer
		settings Settings
		key      ssh.PublicKey
		want     error
	}{
		"pinned":                        {protocol.Peer{Mode: "pin", Pin: pin(t, line1(host.PublicKey()))}, Settings{}, host.PublicKey(), nil},
		"pinned, another":               {protocol.Peer{Mode: "pin", Pin: pin(t, line1(host.PublicKey()))}, Settings{}, other.PublicKey(), errHostKey},
		"pinned, in a certificate":      {protocol.Peer{Mode: "pin", Pin: pin(t, line1(host.PublicKey()))}, Settings{}, good, errHostKey},
		"pinned and revoked":            {protocol.Peer{Mode: "pin", Pin: pin(t, line1(host.PublicKey()))}, Settings{RevokedFile: revoked(host.PublicKey())}, host.PublicKey(), errRevoked},
		"known":                         {inFile(known), Settings{}, host.PublicKey(), nil},
		"known, another":                {inFile(known), Settings{}, other.PublicKey(), errHostKey},
		"known under another name":      {protocol.Peer{Mode: "verify-full", ServerName: "db.internal:2222", CAFile: known}, Settings{}, host.PublicKey(), errHostKey},
		"known on another port":         {protocol.Peer{Mode: "verify-full", ServerName: "web.internal:22", CAFile: known}, Settings{}, host.PublicKey(), errHostKey},
		"known, in a certificate":       {inFile(known), Settings{}, good, errCert},
		"revoked in known_hosts":        {inFile(knownRevoked), Settings{}, host.PublicKey(), errRevoked},
		"certified, by known_hosts":     {inFile(knownCA), Settings{}, good, nil},
		"the authority's bare key":      {inFile(knownCA), Settings{}, ca.PublicKey(), errHostKey},
		"certified":                     {named, byCA, good, nil},
		"no certificate":                {named, byCA, host.PublicKey(), errHostKey},
		"certified by another":          {named, byCA, hostCert(t, host.PublicKey(), other, nil), errCert},
		"another principal":             {named, byCA, hostCert(t, host.PublicKey(), ca, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"db.internal"} }), errCert},
		"expired":                       {named, byCA, hostCert(t, host.PublicKey(), ca, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Unix()) - 1 }), errCert},
		"not yet":                       {named, byCA, hostCert(t, host.PublicKey(), ca, func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Unix()) + 60 }), errCert},
		"a user's":                      {named, byCA, hostCert(t, host.PublicKey(), ca, func(c *ssh.Certificate) { c.CertType = ssh.UserCert }), errCert},
		"critical option":               {named, byCA, hostCert(t, host.PublicKey(), ca, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x": ""} }), errCert},
		"its key revoked":               {named, Settings{HostCAs: byCA.HostCAs, RevokedFile: revoked(host.PublicKey())}, good, errRevoked},
		"its authority revoked":         {named, Settings{HostCAs: byCA.HostCAs, RevokedFile: revoked(ca.PublicKey())}, good, errRevoked},
		"SS-11 signed by a certificate": {named, Settings{HostCAs: []ssh.PublicKey{other.PublicKey()}}, byCert, errCert},
	} {
		id, err := identify(c.peer, &c.settings)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := id.check(c.key); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	for what, p := range map[string]protocol.Peer{"nothing": {}, "no pin": {Mode: "pin"}, "no name": {Mode: "verify-full", CAFile: known}, "no keys": named, "no file": inFile("/nonexistent"),
		"broken file": inFile(write(t, "broken", "web.internal ssh-ed25519 x\n")), "disable": {Mode: "disable"}} {
		if _, err := identify(p, &Settings{}); err == nil {
			t.Errorf("%s: a host is known by it", what)
		}
	}
	if _, err := identify(named, &Settings{HostCAs: byCA.HostCAs, RevokedFile: write(t, "revoked", "not a key\n")}); err == nil {
		t.Error("a list of revoked keys that is not understood passes")
	}
}

// TestCertificates: a real host that shows a certificate and takes those of the agent.
func TestCertificates(t *testing.T) {
	t.Parallel()
	hostKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, private := signerOf(t, hostKey)
	hostCA, _ := newSigner(t)
	userCA, userCAKey := newSigner(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"host": private, "host-cert.pub": line1(hostCert(t, host.PublicKey(), hostCA, nil)), "ca.pub": line1(userCA.PublicKey()), "principals": "deployer\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := server(t, "HostKey "+dir+"/host", "HostCertificate "+dir+"/host-cert.pub", "TrustedUserCAKeys "+dir+"/ca.pub", "AuthorizedPrincipalsFile "+dir+"/principals")
	in := func(s *protocol.Session) {
		s.Login = protocol.Login{User: srv.User, Password: secret.New(userCAKey), Peer: protocol.Peer{Mode: "verify-full", ServerName: "web.internal:22"}}
	}
	good := Settings{HostCAs: []ssh.PublicKey{hostCA.PublicKey()}, Certificate: &Certificate{Validity: time.Minute, Principals: []string{"deployer"}}}
	if r := open(t, srv, in).allow(good).ssh(nil, "echo in"); r.out != "in\n" {
		t.Errorf("got %+v", r)
	}
	forced := good
	forced.Certificate = &Certificate{Validity: time.Minute, Principals: []string{"deployer"}, ForceCommand: "echo forced", SourceAddress: []string{"127.0.0.0/8"}}
	if r := open(t, srv, in).allow(forced).ssh(nil, "echo in"); r.out != "forced\n" {
		t.Errorf("force-command: %+v", r)
	}
	for what, change := range map[string]func(s *Settings){
		"another principal": func(s *Settings) { s.Certificate = &Certificate{Validity: time.Minute} },
		"another address": func(s *Settings) {
			s.Certificate = &Certificate{Validity: time.Minute, Principals: []string{"deployer"}, SourceAddress: []string{"10.1.2.0/24"}}
		},
		"another authority": func(s *Settings) { s.HostCAs = []ssh.PublicKey{userCA.PublicKey()} },
	} {
		s := good
		change(&s)
		if r := open(t, srv, in).allow(s).ssh(nil, "echo in"); r.code != 255 || r.out != "" || !strings.Contains(r.err, "sallyport: ") {
			t.Errorf("%s: %+v", what, r)
		}
	}
	log, err := os.ReadFile(srv.LogFile)
	if err != nil || !strings.Contains(string(log), "sallyport session SESSION1") {
		t.Errorf("the host's log does not name the session: %v\n%s", err, log)
	}
}

// What is signed has no more in it than the settings need.
func TestCertificateHasNoMore(t *testing.T) {
	t.Parallel()
	key, _ := newSigner(t)
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		settings   Settings
		extensions int
	}{
		{Settings{Certificate: &Certificate{Validity: 2 * time.Minute}}, 0},
		{Settings{Certificate: &Certificate{Validity: 2 * time.Minute}, Shells: []Mode{ModeLine}}, 1},
		{Settings{Certificate: &Certificate{Validity: 2 * time.Minute}, Shells: []Mode{ModeLine}, Listen: true}, 2},
	} {
		cert, err := certificate(key.PublicKey(), "S1", "deploy", &c.settings, now)
		if err != nil {
			t.Fatal(err)
		}
		if len(cert.Extensions) != c.extensions || cert.CertType != ssh.UserCert || fmt.Sprint(cert.ValidPrincipals) != "[deploy]" || len(cert.CriticalOptions) != 0 ||
			cert.ValidBefore != uint64(now.Add(2*time.Minute).Unix()) || cert.ValidAfter != uint64(now.Add(-skew).Unix()) {
			t.Errorf("%+v", cert)
		}
	}
}

// TestOldHost: a host with old algorithms alone is reached where its target's settings name them, and not otherwise.
func TestOldHost(t *testing.T) {
	t.Parallel()
	srv := server(t, "KexAlgorithms diffie-hellman-group14-sha1", "Ciphers aes128-ctr", "MACs hmac-sha1")
	if r := open(t, srv).ssh(nil, "echo in"); r.code != 255 || r.out != "" {
		t.Errorf("without: %+v", r)
	}
	for _, s := range []Settings{{Algorithms: []string{"diffie-hellman-group14-sha1", "aes128-ctr", "hmac-sha1"}}, {Algorithms: []string{"diffie-hellman-group14-sha1", "aes128-ctr", "hmac-sha1"}, NoStrictKex: true}} {
		if r := open(t, srv).allow(s).ssh(nil, "echo in"); r.out != "in\n" {
			t.Errorf("with: %+v", r)
		}
	}
	loose := Settings{NoStrictKex: true}
	for _, c := range loose.hostCrypto().Ciphers {
		if c == ssh.CipherChaCha20Poly1305 {
			t.Error("without strict key exchange there is chacha20-poly1305")
		}
	}
}

func TestLoginByPassword(t *testing.T) {
	t.Parallel()
	if _, err := authOf(&protocol.Session{Login: protocol.Login{Password: secret.New("")}}, &Settings{}, time.Now()); err == nil {
		t.Error("an empty credential")
	}
	if _, err := authOf(&protocol.Session{Login: protocol.Login{Password: secret.New("word")}}, &Settings{Certificate: &Certificate{Validity: time.Minute}}, time.Now()); err == nil {
		t.Error("a password signs certificates")
	}
	ask := answerOnce("word")
	for _, c := range []struct {
		questions []string
		echo      []bool
		want      string
	}{{nil, nil, "[]"}, {[]string{"a", "b"}, []bool{false, false}, "error"}, {[]string{"shown"}, []bool{true}, "error"}, {[]string{"Password: "}, []bool{false}, "[word]"}, {[]string{"Again: "}, []bool{false}, "error"}} {
		got, err := ask("", "", c.questions, c.echo)
		if s := fmt.Sprint(got); (err != nil) != (c.want == "error") || err == nil && s != c.want {
			t.Errorf("%v: %v, %v", c.questions, got, err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("# x\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPCsLzdtMQLKQcIvJzLSdGb5ZqjJqsTSRU0qZhfVl6sf x\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseKeys(b)
		if err == nil && len(keys) == 0 && strings.Trim(string(b), " \t\r\n\v\f\u0085\u00a0") != "" && !strings.Contains(string(b), "#") {
			t.Fatalf("%q: nothing of it was read", b)
		}
	})
}
