// Package protocol is the contract between the agent and its rooms, one room per protocol under this directory.
// A room refuses every message that it does not understand, in its protocol's own words.
package protocol
