package ssh

import (
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// What both legs speak: no SHA-1, no CBC, no finite-field groups, nothing without authentication of the whole packet. Post-quantum first.
var (
	keyExchanges = []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384}
	ciphers      = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}
	macs         = []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM} // named by clients that insist; the ciphers above need none
)

// families are the algorithms of one kind of host key. A host has several keys, and only one of them is known.
var families = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
	{ssh.KeyAlgoECDSA384},
	{ssh.KeyAlgoECDSA521},
}

// certified are the same for certificates of hosts: whichever it shows, one authority has signed them all.
var certified = []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01}

func crypto() ssh.Config { return ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs} }

// hostCrypto is what a host is spoken to with: the old algorithms that its target's settings name come last, so that a host that has better ones is not
// spoken to with them.
func (s *Settings) hostCrypto() ssh.Config {
	c := crypto()
	known, old := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	add := func(have, supported, insecure []string) []string {
		have = slices.Clone(have)
		for _, a := range s.Algorithms {
			if !slices.Contains(have, a) && (slices.Contains(supported, a) || slices.Contains(insecure, a)) {
				have = append(have, a)
			}
		}
		return have
	}
	c.KeyExchanges = add(c.KeyExchanges, known.KeyExchanges, old.KeyExchanges)
	c.Ciphers = add(c.Ciphers, known.Ciphers, old.Ciphers)
	c.MACs = add(c.MACs, known.MACs, old.MACs)
	if s.NoStrictKex { // these two are what CVE-2023-48795 removes packets from
		c.Ciphers = slices.DeleteFunc(c.Ciphers, func(a string) bool { return a == ssh.CipherChaCha20Poly1305 })
		c.MACs = slices.DeleteFunc(c.MACs, func(a string) bool { return strings.HasSuffix(a, "-etm@openssh.com") })
	}
	return c
}

// hostKeys are the kinds of host keys to ask for, one after the other.
func (s *Settings) hostKeys(certificates bool) [][]string {
	all := slices.Clone(families)
	if certificates {
		all = slices.Insert(all, 0, certified)
	}
	old := ssh.InsecureAlgorithms().HostKeys
	for _, a := range s.Algorithms {
		if slices.Contains(old, a) {
			all = append(all, []string{a})
		}
	}
	return all
}
