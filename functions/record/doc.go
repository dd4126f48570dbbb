// Package record takes in how permitted commands ended, at least once, and stores each outcome once.
// It refuses outcomes of other agents' sessions, and of commands that nothing allowed.
package record
