// Package config reads the agent's configuration: its broker, its targets with their addresses and credentials, and its floor.
// It refuses keys that it does not know, a target without proof of who it is, and every credential written into the file itself.
package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/agent/credential"
	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/recording"
	"github.com/sallyport/sallyport/agent/spool"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/token"
)

// maxFile bounds a configuration: token.MaxTargets targets take some 30 kB.
const maxFile = 1 << 20

// Config is a checked configuration. Paths are absolute.
type Config struct {
	Broker    string // https, with a pin where the broker's certificate is not public
	AWSRegion string // calls are signed by the machine's AWS identity too; "": they are not
	StateDir  string
	ReadyFile string            // "" for none
	JoinToken credential.Source // for the first start; zero for none
	Relays    []string          // host:port; empty: those that the broker names
	Targets   map[access.TargetName]Target
	Floor     gate.Floor
	MaskKey   credential.Source // of keyed masks; zero: one that the agent makes and keeps
	Spool     int64             // bytes; 0: spool.DefaultLimit
	// Recordings is how many bytes of recordings may wait for the broker; 0: recording.DefaultLimit.
	Recordings int64
}

// Target is how the agent reaches a target, and with what.
type Target struct {
	Protocol string
	Network  string // "tcp" or "unix"
	Address  string
	Database string
	User     string
	Password credential.Source
	Peer     protocol.Peer
	Settings any // of the target's room, as the room reads them; nil: none
}

// The file, as it is written.
type (
	file struct {
		Broker    string            `yaml:"broker"`
		AWS       *awsIdentity      `yaml:"aws"`
		StateDir  string            `yaml:"state_dir"`
		BaseDir   string            `yaml:"base_dir"` // for relative paths; empty: where the file lies
		ReadyFile string            `yaml:"ready_file"`
		JoinToken *source           `yaml:"join_token"`
		Relays    []string          `yaml:"relays"`
		Targets   map[string]target `yaml:"targets"`
		Floor     floor             `yaml:"floor"`
		MaskKey   *source           `yaml:"mask_key"`
		Spool     struct {
			LimitBytes int64 `yaml:"limit_bytes"`
		} `yaml:"spool"`
		Recordings struct {
			LimitBytes int64 `yaml:"limit_bytes"`
		} `yaml:"recordings"`
	}
	awsIdentity struct {
		Region string `yaml:"region"`
	}
	source struct {
		File, Env string
		Command   []string
		RDSToken  string // an AWS region; of a target's password alone
	}
	target struct {
		Protocol string `yaml:"protocol"`
		Address  string `yaml:"address"` // host:port or unix:/path
		Database string `yaml:"database"`
		User     string `yaml:"user"`
		Password source `yaml:"password"`
		Key      source `yaml:"private_key"` // in place of a password
		UserCA   source `yaml:"user_ca"`     // in place of a password: the key of a CA that the host trusts; see certificate
		HostKey  string `yaml:"host_key"`    // in place of tls: "TYPE BASE64", as in known_hosts, or SHA256:FINGERPRINT

		Section map[string]yaml.Node `yaml:",inline"` // by the protocol's name: what its room alone knows
		TLS     struct {
			Mode       string `yaml:"mode"` // disable, verify-full, pin; empty: verify-full
			ServerName string `yaml:"server_name"`
			CAFile     string `yaml:"ca_file"`
			Pin        string `yaml:"pin"` // hex SHA-256 of the certificate's SubjectPublicKeyInfo
		} `yaml:"tls"`
	}
	floor struct {
		Deny []struct {
			ID       string          `yaml:"id"`
			Effects  []access.Effect `yaml:"effects"`
			Resource string          `yaml:"resource"`
			Hint     string          `yaml:"hint"`
		} `yaml:"deny"`
		Mask []struct {
			Name     string   `yaml:"name"`
			Columns  []string `yaml:"columns"`
			Detector string   `yaml:"detector"`
			Mask     string   `yaml:"mask"`
		} `yaml:"mask"`
	}
)

// Load reads and checks a file. rooms are those that have settings of their own, by protocol.
func Load(path string, rooms map[string]protocol.Settings) (Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(b, filepath.Dir(abs), rooms)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse checks a configuration; relative paths are below dir, an absolute path, where the file does not say otherwise.
func Parse(b []byte, dir string, rooms map[string]protocol.Settings) (Config, error) {
	if len(b) > maxFile {
		return Config{}, fmt.Errorf("it is over %d bytes", maxFile)
	}
	var f file
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return Config{}, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("something follows the first document")
	}
	if f.BaseDir != "" {
		dir = below(dir, f.BaseDir)
	}
	c := Config{Broker: f.Broker, Relays: f.Relays, Spool: f.Spool.LimitBytes, Recordings: f.Recordings.LimitBytes, Targets: make(map[access.TargetName]Target, len(f.Targets))}
	if err := c.place(&f, dir); err != nil {
		return Config{}, err
	}
	for name, t := range f.Targets {
		checked, err := t.check(dir, rooms[t.Protocol])
		if err == nil {
			err = access.CheckName("target", name)
		}
		if err != nil {
			return Config{}, fmt.Errorf("target %q: %w", name, err)
		}
		c.Targets[access.TargetName(name)] = checked
	}
	if n := len(c.Targets); n == 0 || n > token.MaxTargets {
		return Config{}, fmt.Errorf("%d targets: want 1 to %d", n, token.MaxTargets)
	}
	var err error
	c.Floor, err = f.Floor.check()
	return c, err
}

var awsRegion = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]{2,16}){1,3}-[0-9]{1,2}$`)

// place checks everything that is not about a target.
func (c *Config) place(f *file, dir string) error {
	u, err := url.Parse(f.Broker)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return errors.New("broker: want https://HOST[:PORT]/[#ca=PIN]")
	}
	if f.AWS != nil {
		if !awsRegion.MatchString(f.AWS.Region) {
			return errors.New("aws.region: the region of the broker's functions, such as eu-west-1")
		}
		c.AWSRegion = f.AWS.Region
	}
	if f.StateDir == "" {
		return errors.New("state_dir: where the agent keeps its key and what it has not delivered")
	}
	c.StateDir = below(dir, f.StateDir)
	if f.ReadyFile != "" {
		c.ReadyFile = below(dir, f.ReadyFile)
	}
	if f.JoinToken != nil {
		if c.JoinToken, err = f.JoinToken.check(dir); err != nil {
			return fmt.Errorf("join_token: %w", err)
		}
	}
	if f.MaskKey != nil {
		if c.MaskKey, err = f.MaskKey.check(dir); err != nil {
			return fmt.Errorf("mask_key: %w", err)
		}
	}
	for _, r := range f.Relays {
		if _, _, err := net.SplitHostPort(r); err != nil {
			return fmt.Errorf("relay %q: want HOST:PORT", r)
		}
	}
	if c.Spool != 0 && c.Spool < spool.MinLimit {
		return fmt.Errorf("spool.limit_bytes: %d is under %d", c.Spool, spool.MinLimit)
	}
	if c.Recordings != 0 && c.Recordings < recording.MinLimit {
		return fmt.Errorf("recordings.limit_bytes: %d is under %d", c.Recordings, recording.MinLimit)
	}
	return nil
}

func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// UnmarshalYAML reads {file: …}, {env: …} or {command: […]}. Its errors tell no value: somebody may have written the credential itself.
func (s *source) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return fmt.Errorf("line %d: want exactly one of {file: PATH}, {env: NAME}, {command: [PROGRAM, ARGUMENT…]} and {rds_token: REGION}, never the value itself", n.Line)
	}
	key, value := n.Content[0], n.Content[1]
	to := any(nil)
	switch key.Value {
	case "file":
		to = &s.File
	case "env":
		to = &s.Env
	case "command":
		to = &s.Command
	case "rds_token":
		to = &s.RDSToken
	}
	if to == nil || value.Decode(to) != nil {
		return fmt.Errorf("line %d: want file, env or rds_token with a text, or command with a list of texts", key.Line)
	}
	return nil
}

func (s source) check(dir string) (credential.Source, error) {
	c := credential.Source{Env: s.Env, Command: s.Command}
	if s.File != "" {
		c.File = below(dir, s.File)
	}
	if s.RDSToken != "" {
		return c, errors.New("rds_token is for the password of a target")
	}
	return c, c.Check()
}

func (t target) check(dir string, room protocol.Settings) (Target, error) {
	c := Target{Protocol: t.Protocol, Network: "tcp", Address: t.Address, Database: t.Database, User: t.User}
	if t.Protocol == "" || t.User == "" {
		return c, errors.New("protocol and user are required")
	}
	var local bool
	var host, port string
	if path, ok := strings.CutPrefix(t.Address, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return c, fmt.Errorf("address %q: want an absolute path after 'unix:'", t.Address)
		}
		c.Network, c.Address, local = "unix", path, true
	} else {
		var err error
		if host, port, err = net.SplitHostPort(t.Address); err != nil || host == "" || port == "" {
			return c, fmt.Errorf("address %q: want HOST:PORT or unix:/PATH", t.Address)
		}
		ip := net.ParseIP(host)
		local = ip != nil && ip.IsLoopback()
	}
	kind, err := t.credential(&c, dir)
	if err != nil {
		return c, err
	}
	peer, named, unproven := t.peer(dir, host, local)
	c.Peer = peer
	if c.Password.RDS.Region != "" && (c.Network != "tcp" || peer.Mode == "disable" || t.HostKey != "") {
		return c, errors.New("password: rds_token is for a database by TCP and TLS")
	}
	known, err := t.section(&c, room, protocol.Section{Dir: dir, Host: host, Port: port, Credential: kind, Peer: peer})
	switch {
	case err != nil:
		return c, err
	case known == nil:
		return c, unproven
	case named:
		return c, fmt.Errorf("tls, host_key, and a proof under %q: one of them", t.Protocol)
	}
	c.Peer = *known
	return c, nil
}

// section has the room read what only it knows.
func (t target) section(c *Target, room protocol.Settings, s protocol.Section) (peer *protocol.Peer, err error) {
	for name, node := range t.Section {
		if name != t.Protocol || room == nil {
			return nil, fmt.Errorf("line %d: field %s not found in a target of protocol %s", node.Line, name, t.Protocol)
		}
	}
	if room == nil {
		return nil, nil
	}
	s.Decode = func(into any) error {
		node, ok := t.Section[t.Protocol]
		if !ok {
			return nil
		}
		b, err := yaml.Marshal(&node) // a node has no strict decoder of its own
		if err != nil {
			return err
		}
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		return d.Decode(into)
	}
	if c.Settings, peer, err = room(s); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Protocol, err)
	}
	return peer, nil
}

// credential finds the one source of what the agent logs in with, and says what it is.
func (t target) credential(c *Target, dir string) (kind string, err error) {
	var secret source
	for _, s := range []struct {
		kind string
		source
	}{{protocol.Password, t.Password}, {protocol.PrivateKey, t.Key}, {protocol.UserCA, t.UserCA}} {
		if s.empty() {
			continue
		}
		if !secret.empty() {
			return "", errors.New("password, private_key and user_ca: one of them")
		}
		secret, kind = s.source, s.kind
	}
	if kind == protocol.Password && secret.RDSToken != "" {
		c.Password.RDS = credential.RDS{Region: secret.RDSToken, Endpoint: c.Address, User: c.User}
		return kind, nil
	}
	if c.Password, err = secret.check(dir); err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return kind, nil
}

// peer finds the one way in which the target proves itself; named says that the configuration names one.
func (t target) peer(dir, host string, local bool) (p protocol.Peer, named bool, err error) {
	tls := t.TLS.Mode+t.TLS.ServerName+t.TLS.CAFile+t.TLS.Pin != ""
	if t.HostKey != "" {
		if tls {
			return p, true, errors.New("tls and host_key: one of them")
		}
		p, err = hostKey(t.HostKey)
		return p, true, err
	}
	if p, err = t.tls(dir, host, local); err != nil {
		return protocol.Peer{}, tls, fmt.Errorf("tls: %w", err)
	}
	return p, tls, nil
}

func (s source) empty() bool {
	return s.File == "" && s.Env == "" && len(s.Command) == 0 && s.RDSToken == ""
}

// hostKey reads a public key, or its fingerprint as ssh-keygen -l prints it.
func hostKey(s string) (protocol.Peer, error) {
	wrong := fmt.Errorf("host_key %q: want TYPE BASE64, as in known_hosts, or SHA256:FINGERPRINT", s)
	if print, ok := strings.CutPrefix(s, "SHA256:"); ok {
		pin, err := base64.RawStdEncoding.DecodeString(print)
		if err != nil || len(pin) != sha256.Size {
			return protocol.Peer{}, wrong
		}
		return protocol.Peer{Mode: "pin", Pin: pin}, nil
	}
	parts := strings.Fields(s)
	if len(parts) < 2 {
		return protocol.Peer{}, wrong
	}
	blob, err := base64.StdEncoding.DecodeString(parts[1])
	if n := len(parts[0]); err != nil || len(blob) < 4+n || binary.BigEndian.Uint32(blob) != uint32(n) || string(blob[4:4+n]) != parts[0] {
		return protocol.Peer{}, wrong
	}
	pin := sha256.Sum256(blob)
	return protocol.Peer{Mode: "pin", Pin: pin[:]}, nil
}

func (t target) tls(dir, host string, local bool) (protocol.Peer, error) {
	c := protocol.Peer{Mode: t.TLS.Mode, ServerName: t.TLS.ServerName}
	if t.TLS.CAFile != "" {
		c.CAFile = below(dir, t.TLS.CAFile)
	}
	switch c.Mode {
	case "disable":
		if !local {
			return c, errors.New("mode disable is for loopback addresses and unix sockets")
		}
		if t.TLS.ServerName+t.TLS.CAFile+t.TLS.Pin != "" {
			return c, errors.New("mode disable takes nothing beside")
		}
	case "", "verify-full":
		c.Mode = "verify-full"
		if t.TLS.Pin != "" {
			return c, errors.New("pin belongs to mode pin")
		}
		if c.ServerName == "" {
			c.ServerName = host
		}
		if c.ServerName == "" {
			return c, errors.New("verify-full over a unix socket needs server_name, or use mode disable")
		}
	case "pin":
		pin, err := hex.DecodeString(t.TLS.Pin)
		if err != nil || len(pin) != 32 {
			return c, errors.New("pin: want the SHA-256 of the certificate's public key, 64 hex digits")
		}
		c.Pin = pin
	default:
		return c, fmt.Errorf("mode %q: want disable, verify-full or pin", c.Mode)
	}
	return c, nil
}

func (f floor) check() (gate.Floor, error) {
	var c gate.Floor
	for _, d := range f.Deny {
		if err := access.CheckName("rule", d.ID); err != nil {
			return c, fmt.Errorf("floor.deny: %w", err)
		}
		if d.Resource == "" {
			return c, fmt.Errorf("floor.deny %s: resource is a pattern over names, \"*\" for all", d.ID)
		}
		for _, e := range d.Effects {
			if !slices.Contains(access.Effects, e) {
				return c, fmt.Errorf("floor.deny %s: effect %q is not one of %v", d.ID, e, access.Effects)
			}
		}
		c.Deny = append(c.Deny, gate.FloorRule{ID: d.ID, Effects: d.Effects, Resource: d.Resource, Hint: d.Hint})
	}
	for _, m := range f.Mask {
		if err := access.CheckName("class", m.Name); err != nil {
			return c, fmt.Errorf("floor.mask: %w", err)
		}
		if err := mask.Check(m.Mask); err != nil {
			return c, fmt.Errorf("floor.mask %s: %w", m.Name, err)
		}
		if m.Detector != "" && !slices.Contains(mask.Detectors, m.Detector) {
			return c, fmt.Errorf("floor.mask %s: detector %q is not one of %v", m.Name, m.Detector, mask.Detectors)
		}
		if len(m.Columns) == 0 && m.Detector == "" {
			return c, fmt.Errorf("floor.mask %s: want columns, patterns over schema.table.column, or a detector", m.Name)
		}
		c.Mask = append(c.Mask, access.Class{Name: m.Name, Columns: m.Columns, Detector: m.Detector, Mask: m.Mask})
	}
	return c, nil
}

// SettingsOf are the settings of one room, of the type that it gives, by target.
func SettingsOf[T any](c *Config) map[access.TargetName]T {
	all := map[access.TargetName]T{}
	for name, t := range c.Targets {
		if s, ok := t.Settings.(*T); ok && s != nil {
			all[name] = *s
		}
	}
	return all
}
