// Package ssh is what a local endpoint knows of SSH: how programs name it, how to tell an SSH client that there is no connection, and which key the
// agent shows, which the channel below has proved already. It refuses everything: what a client may do is decided by the agent's room.
package ssh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"

	"github.com/sallyport/sallyport/client/endpoint"
)

// Protocol is the endpoint's side of SSH.
type Protocol struct{}

var _ endpoint.Protocol = Protocol{}

const (
	version = "SSH-2.0-Sallyport\r\n"
	// maxVersion is from RFC 4253 section 4.2.
	maxVersion = 255
	// maxReason is more than OpenSSH shows.
	maxReason = 1000
	// user is who clients say they are: the login on the host is the agent's business.
	user = "sallyport"
)

// Refuse reads the client's version and answers with ours and SSH_MSG_DISCONNECT, which needs no keys (RFC 4253 section 11.1).
func (Protocol) Refuse(conn net.Conn, r endpoint.Refusal) error {
	text := "sallyport: " + r.Message
	if r.Denied.Hint != "" {
		text += "; " + r.Denied.Hint
	}
	if _, err := conn.Write(append([]byte(version), disconnect(text)...)); err != nil {
		return fmt.Errorf("refuse: %w", err)
	}
	b := make([]byte, 1)
	for range maxVersion {
		if _, err := conn.Read(b); err != nil {
			return fmt.Errorf("version of the client: %w", err)
		}
		if b[0] == '\n' {
			drain(conn)
			return nil
		}
	}
	return errors.New("version of the client: too long")
}

// drain takes what the client says until it has understood and closes, so that our last word is not lost to a reset.
func drain(conn net.Conn) {
	b := make([]byte, 4096)
	for range 32 {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

// disconnect is the packet, unencrypted: length, padding length, type 1, reason 11 (by application), text, language.
func disconnect(text string) []byte {
	text = text[:min(len(text), maxReason)]
	p := binary.BigEndian.AppendUint32([]byte{1}, 11)
	p = append(binary.BigEndian.AppendUint32(p, uint32(len(text))), text...)
	p = binary.BigEndian.AppendUint32(p, 0)
	padding := 8 - (5+len(p))%8
	if padding < 4 {
		padding += 8
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(p)+padding))
	b = append(append(b, byte(padding)), p...)
	return append(b, make([]byte, padding)...)
}

// SocketFile is ours to choose: SSH clients know no sockets, and come through `sallyport proxy`.
func (Protocol) SocketFile() string { return "ssh.sock" }

// DSN names the loopback port where there is one, else the socket.
func (Protocol) DSN(l endpoint.Local) string {
	if l.Port != 0 {
		u := url.URL{Scheme: "ssh", User: url.UserPassword(user, l.Password.Reveal()), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port))}
		return u.String()
	}
	u := url.URL{Scheme: "ssh+unix", User: url.User(user), Path: filepath.Join(l.Dir, Protocol{}.SocketFile())}
	return u.String()
}

// Env keeps what ansible shares (ControlPath) within the run; OpenSSH's client takes no destination from its environment.
func (Protocol) Env(l endpoint.Local) []string {
	return []string{"ANSIBLE_SSH_CONTROL_PATH_DIR=" + l.Dir}
}

// Clears says that an agent's keys are of no use here.
func (Protocol) Clears(name string) bool { return name == "SSH_AUTH_SOCK" }
