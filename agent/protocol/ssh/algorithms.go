package ssh

import "golang.org/x/crypto/ssh"

// What both legs speak: no SHA-1, no CBC, no finite-field groups, nothing without authentication of the whole packet. Post-quantum first.
var (
	keyExchanges = []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384}
	ciphers      = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}
	macs         = []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM} // named by clients that insist; the ciphers above need none
)

// families are the algorithms of one kind of host key. A host has several keys, and only one of them is pinned.
var families = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
	{ssh.KeyAlgoECDSA384},
	{ssh.KeyAlgoECDSA521},
}

func crypto() ssh.Config { return ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs} }
