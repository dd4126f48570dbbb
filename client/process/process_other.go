//go:build !linux

package process

import "net"

// Peer is the process that connected a unix socket.
type Peer struct {
	ID
	UID int
}

// PeerOf identifies who connected c: only by user, and only where the system tells.
func PeerOf(c *net.UnixConn) (*Peer, error) {
	uid, err := peerUID(c)
	if err != nil {
		return nil, err
	}
	return &Peer{UID: uid}, nil
}

// Hold always refuses here.
func Hold(ID) (*Peer, error) { return nil, ErrUnsupported }

// Close does nothing here.
func (p *Peer) Close() {}

// Alive is false here: nothing shows it.
func (p *Peer) Alive() bool { return false }

// Ancestors always refuses here.
func (p *Peer) Ancestors() ([]ID, error) { return nil, ErrUnsupported }

// Mark is zero here: without runs there are no marks.
func (p *Peer) Mark() (Mark, error) { return 0, nil }

// Program is not known here.
func (p *Peer) Program() string { return "" }

// Self always refuses here.
func Self() (ID, error) { return ID{}, ErrUnsupported }

// Own is zero here: without runs there are no marks.
func Own() (Mark, error) { return 0, nil }

// Lower always refuses here.
func Lower() (Mark, error) { return 0, ErrUnsupported }

// Protect does nothing here: the system's own rules for debuggers apply.
func Protect() error { return nil }

// KeepDescriptors always refuses here: nothing needs it where there are no runs.
func KeepDescriptors() error { return ErrUnsupported }
