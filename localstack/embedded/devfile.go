package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/localstack/idp"
)

// DevFile is DIR/dev.json (mode 0600): written once everything is ready, removed at a clean stop.
type DevFile struct {
	Broker  string            `json:"broker"`  // SALLYPORT_URL: with the CA's hash as fragment
	Relay   string            `json:"relay"`   // host:port
	Issuer  string            `json:"issuer"`  // of the development identity provider
	Console string            `json:"console"` // the browser's pages
	CA      string            `json:"ca"`      // path of the CA certificate, PEM
	PID     int               `json:"pid"`
	Agent   int               `json:"agent,omitempty"` // the agent's pid
	Targets []string          `json:"targets"`
	Users   map[string]string `json:"users"` // names and passwords at the provider
}

const devFileName = "dev.json"

// ReadDevFile reads what a running instance wrote.
func ReadDevFile(dir string) (DevFile, error) {
	b, err := os.ReadFile(filepath.Join(dir, devFileName))
	if err != nil {
		return DevFile{}, fmt.Errorf("read dev.json (is `sallyport dev --dir %s` running?): %w", dir, err)
	}
	var d DevFile
	if err := json.Unmarshal(b, &d); err != nil {
		return DevFile{}, fmt.Errorf("read dev.json: %w", err)
	}
	return d, nil
}

// writeJSON replaces a file whole, mode 0600.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}

func writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ports are remembered, so that a restart listens where clients and agents look for it.
type ports struct {
	Broker  string `json:"broker"`
	Console string `json:"console"`
	Issuer  string `json:"issuer"`
	Relay   string `json:"relay"`
}

func readPorts(path string) ports {
	var p ports
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &p) != nil {
		return ports{} // the first start, or a damaged file: take new ones
	}
	return p
}

// developers are the people that the development provider knows. Passwords are random and kept beside.
func developers(path string) ([]idp.User, error) {
	users := []idp.User{
		{Name: "alice", Groups: []string{"engineers"}},
		{Name: "rita", Groups: []string{"reviewers"}},
		{Name: "adam", Groups: []string{"administrators", "auditors"}},
	}
	kept := map[string]string{}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read users: %w", err)
	default:
		if err := json.Unmarshal(b, &kept); err != nil {
			return nil, fmt.Errorf("read users: %w", err)
		}
	}
	changed := false
	for i := range users {
		if kept[users[i].Name] == "" {
			kept[users[i].Name], changed = newPassword(), true
		}
		users[i].Password = kept[users[i].Name]
	}
	if !changed {
		return users, nil
	}
	return users, writeJSON(path, kept)
}
