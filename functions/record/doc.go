// Package record takes in how permitted commands ended, and what they left as recordings, at least once, and stores each once.
// It refuses outcomes and chunks of other agents' sessions, of commands that nothing allowed, out of order, or with other bytes.
package record
