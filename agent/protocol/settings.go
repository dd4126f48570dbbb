package protocol

import "path/filepath"

// Settings reads what the agent's configuration says of a target in the words of its room alone: the section of the target that has the
// protocol's name. It is called for every target of the protocol, whether there is a section or not, and gives what the room is made with;
// nil for nothing. peer, where it is not nil, is how the target proves itself by means that only the section knows.
type Settings func(s Section) (settings any, peer *Peer, err error)

// Section is that part of a target, with what the rest of it says.
type Section struct {
	// Decode reads the section strictly; it leaves into as it is where there is none.
	Decode func(into any) error
	// Dir is what relative paths are below.
	Dir string
	// Host and Port are the address's; empty over a unix socket.
	Host, Port string
	// Credential is what the target's credential is: one of the constants below.
	Credential string
	// Peer is how the target proves itself by the rest of its configuration; the zero Peer where that does not say.
	Peer Peer
}

// What a credential is, as the configuration's keys name it.
const (
	Password   = "password"
	PrivateKey = "private_key"
	UserCA     = "user_ca" // the key of an authority that the target trusts
)

// Path is a path of the section, absolute.
func (s Section) Path(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(s.Dir, path)
}
