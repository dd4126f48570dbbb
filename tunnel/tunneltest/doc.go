// Package tunneltest has what tests of the tunnel's users need: a stack's certificates, a whole path over loopback, and a relay that does
// to streams what a taken-over one could.
// It refuses nothing that a real relay would: its tickets are not signed.
package tunneltest
