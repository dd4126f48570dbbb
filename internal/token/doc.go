// Package token makes and checks everything that says who asks: access tokens, relay tickets, proofs of possession, agents' certificates
// and signed calls, sealed session state, and the grants that tokens rest on.
// It refuses every algorithm but ES256, every token type but the one expected, and anything used twice, stale or bound to another key.
package token
