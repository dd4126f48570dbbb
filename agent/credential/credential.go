// Package credential fetches what the agent logs in to targets with: from a file, the environment, a command or AWS.
// It refuses to read a credential file that others can read.
package credential
