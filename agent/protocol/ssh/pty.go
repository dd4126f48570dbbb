package ssh

import (
	"errors"
	"regexp"

	"golang.org/x/crypto/ssh"
)

// size is a terminal's: in characters, and in pixels where the client says.
type size struct{ Columns, Rows, Width, Height uint32 }

// pty is a terminal that the client asked for (RFC 4254 section 6.2).
type pty struct {
	term  string
	size  size
	modes string // opaque: they say how lines are edited and echoed
}

const (
	// maxSide is more than any screen has.
	maxSide = 4096
	// maxModes bounds the encoded modes: RFC 4254 section 8 knows some 60, of 5 bytes each.
	maxModes = 1024
)

var termName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$`)

var errTerminal = errors.New("malformed request for a terminal")

// readPTY reads a pty-req. A size of nothing is what clients say that do not know.
func readPTY(payload []byte) (*pty, error) {
	var p struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if err := ssh.Unmarshal(payload, &p); err != nil || len(p.Modes) > maxModes {
		return nil, errTerminal
	}
	if p.Term == "" {
		p.Term = "dumb"
	}
	s, ok := bounded(size{p.Columns, p.Rows, p.Width, p.Height})
	if !ok || !termName.MatchString(p.Term) {
		return nil, errTerminal
	}
	return &pty{term: p.Term, size: s, modes: p.Modes}, nil
}

// readSize reads a window-change (section 6.7).
func readSize(payload []byte) (size, error) {
	var s size
	if err := ssh.Unmarshal(payload, &s); err != nil {
		return size{}, errTerminal
	}
	s, ok := bounded(s)
	if !ok {
		return size{}, errTerminal
	}
	return s, nil
}

func bounded(s size) (size, bool) {
	if s.Columns > maxSide || s.Rows > maxSide {
		return size{}, false
	}
	if s.Columns == 0 {
		s.Columns = 80
	}
	if s.Rows == 0 {
		s.Rows = 24
	}
	return s, true
}

// request is the pty-req for the host.
func (p *pty) request() []byte {
	return ssh.Marshal(&struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{p.term, p.size.Columns, p.size.Rows, p.size.Width, p.size.Height, p.modes})
}
