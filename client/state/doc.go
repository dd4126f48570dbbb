// Package state keeps what the CLI knows between two calls: the login (key and token) and the ports of local endpoints.
// It refuses a directory or file that another user owns or can read, and a file that it does not understand.
package state
