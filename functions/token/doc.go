// Package token is the function where identity comes in and access tokens go out: login, delegation, renewal, revocation, relay tickets.
// It refuses identity tokens that were used before or are bound to another key, and children that would have more than their parent.
package token
