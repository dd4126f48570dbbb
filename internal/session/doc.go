// Package session keeps the broker's record of every session: who opened it, through which agent, and whether it is over.
// It refuses to bring a session back: one that was closed or ended stays so.
package session
