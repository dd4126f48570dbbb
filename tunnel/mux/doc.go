// Package mux carries many streams over one uplink: hashicorp/yamux behind a narrow door, so that nothing else knows it.
// It refuses streams that the wrong side opens, more streams than their windows have memory for, and floods of pings; an uplink that does
// not move is closed, never waited for.
package mux
