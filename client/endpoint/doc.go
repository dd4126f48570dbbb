// Package endpoint serves the local end of a target: programs of this machine connect to a socket or loopback port, and each
// connection goes through a tunnel of its own to the agent of that target.
// It refuses callers that are not the ones it was opened for, in the words of their own protocol, and every caller while the
// broker or the relay cannot be reached.
package endpoint
