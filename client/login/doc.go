// Package login gets an identity and keeps it fresh: a person's, by OIDC in the browser, and any token's renewal before it ends.
// It refuses an answer of the provider that does not belong to this very attempt, and an issuer reached without TLS anywhere but
// on this machine.
package login
