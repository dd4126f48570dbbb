// Package idtoken verifies the ID tokens of one OpenID Connect provider, for the functions that people sign in at.
// It refuses everything that go-oidc lets pass and a login must not: other audiences, other types, ages, algorithms, unplain names.
package idtoken
