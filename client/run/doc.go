// Package run starts a program as an actor of its own and speaks for it: a 0600 socket to ask through, a ready endpoint for each
// target, and rules by which callers are told apart. It refuses every process that it did not start, directly or further down,
// and every process of a run inside it: that one has its own socket.
//
// Who speaks is the nearest enclosing run of the process that connects. Three things must agree before a caller is heard: its
// user; its ancestors, which must lead here without passing another run; and its mark (see package process), which must be
// this run's. Ancestors alone would not do: when a run dies, its processes get a new parent, which may well belong to the run
// around it. The mark stays, so they match nowhere and speak as nobody.
//
// The key of an actor is made in the process of its run, which is not dumpable, and never leaves it. A run inside another shows
// its public key to the one around it, which asks the broker for the child: neither sees the other's key. Against a hostile
// process of the same user, and against root, only another user (--as-user) or another machine isolates: such a process can
// trace the programs of a run, if not the run itself.
package run
