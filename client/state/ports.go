package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"github.com/sallyport/sallyport/internal/access"
)

const portsFile = "ports.json"

// Ports of endpoints lie below the range from which systems take ports for outgoing connections (32768 and up on Linux).
const (
	firstPort = 20000
	portCount = 10000
)

type ports struct {
	V     int                       `json:"v"`
	Ports map[access.TargetName]int `json:"ports"`
}

// Port is the port for a target: the one remembered, else one that follows from the hash of its name. Others follow in order.
func (d Dir) Port(target access.TargetName) (port int, remembered bool, err error) {
	p, err := d.loadPorts()
	if err != nil {
		return 0, false, err
	}
	if port, ok := p.Ports[target]; ok {
		return port, true, nil
	}
	h := sha256.Sum256([]byte("sallyport port\x00" + string(target)))
	return firstPort + int(binary.BigEndian.Uint32(h[:4])%portCount), false, nil
}

// NextPort follows p within the range.
func NextPort(p int) int {
	if p++; p < firstPort || p >= firstPort+portCount {
		return firstPort
	}
	return p
}

// RememberPort keeps the port of a target for the next time.
func (d Dir) RememberPort(target access.TargetName, port int) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	p, err := d.loadPorts()
	if err != nil {
		return err
	}
	next := maps.Clone(p.Ports)
	if next == nil {
		next = map[access.TargetName]int{}
	}
	next[target] = port
	b, err := json.Marshal(ports{V: 1, Ports: next})
	if err != nil {
		return fmt.Errorf("remember port: %w", err)
	}
	if err := d.write(portsFile, b); err != nil {
		return fmt.Errorf("remember port: %w", err)
	}
	return nil
}

func (d Dir) loadPorts() (ports, error) {
	b, err := d.read(portsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return ports{V: 1}, nil
	}
	if err != nil {
		return ports{}, fmt.Errorf("load ports: %w", err)
	}
	return decodePorts(b)
}

func decodePorts(b []byte) (ports, error) {
	var p ports
	if err := decodeStrict(b, &p); err != nil {
		return ports{}, fmt.Errorf("load ports: %w", err)
	}
	if p.V != 1 {
		return ports{}, fmt.Errorf("load ports: version %d is not 1", p.V)
	}
	for t, port := range p.Ports {
		if port < 1024 || port > 65535 {
			return ports{}, fmt.Errorf("load ports: %q has port %d", t, port)
		}
	}
	return p, nil
}
