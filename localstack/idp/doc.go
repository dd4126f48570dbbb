// Package idp is an OpenID Connect provider for development and tests: authorization code with PKCE, one page, a handful of users.
// It refuses clients it was not told of, requests without PKCE, and everything that the rest of the system does not need.
package idp
