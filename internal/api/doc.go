// Package api holds the wire types between the parts: clients and agents ask, functions answer, all in JSON over HTTPS.
// It refuses unknown fields, bodies over MaxBody and anything after the JSON value.
package api
