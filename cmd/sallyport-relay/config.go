package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/tunnel/mux"
	"github.com/sallyport/sallyport/tunnel/relay"
)

// maxConfig bounds the configuration file and each PEM file that it names.
const maxConfig = 64 << 10

// config is the configuration file. Paths are taken from the working directory; env:NAME in place of one is what an environment variable holds.
type config struct {
	Listen      string `yaml:"listen"`      // host:port
	Certificate string `yaml:"certificate"` // PEM file: the relay's, then the CA's; read again when it changes
	Key         string `yaml:"key"`         // PEM file, nobody else's to read
	CA          string `yaml:"ca"`          // PEM file: signs agents
	Broker      string `yaml:"broker"`      // URL, with its pin: https://host:port/#ca=…
	Epoch       int64  `yaml:"epoch"`       // the least that is believed of the broker, which tells its own; 0 means 1
	ReadyFile   string `yaml:"ready_file"`  // gets the address once the relay serves; may be empty
	Log         string `yaml:"log"`         // "debug", "info" (also for ""), "warn"
	Limits      limits `yaml:"limits"`
}

// limits are relay.Limits; each zero means the relay's default.
type limits struct {
	Handshakes      int           `yaml:"handshakes"`
	Streams         int           `yaml:"streams"`
	Uplinks         int           `yaml:"uplinks"`
	UplinksPerAgent int           `yaml:"uplinks_per_agent"`
	WindowKiB       int           `yaml:"window_kib"`        // per stream: a stream carries at most this per round trip
	UplinkMemoryMiB int           `yaml:"uplink_memory_mib"` // of windows; divided by window_kib it is the streams of an uplink
	Drain           time.Duration `yaml:"drain"`
}

func (l limits) relay() relay.Limits {
	return relay.Limits{
		Handshakes: l.Handshakes, Streams: l.Streams, Uplinks: l.Uplinks, UplinksPerAgent: l.UplinksPerAgent, Drain: l.Drain,
		Mux: mux.Config{Window: l.WindowKiB << 10, Memory: l.UplinkMemoryMiB << 20},
	}
}

func (c config) level() slog.Level {
	return map[string]slog.Level{"debug": slog.LevelDebug, "warn": slog.LevelWarn}[c.Log] // info is zero
}

func loadConfig(in inputs, file string) (config, error) {
	b, err := in.read(file)
	if err != nil {
		return config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := parseConfig(b)
	if err != nil {
		return config{}, fmt.Errorf("configuration %s: %w", file, err)
	}
	return c, nil
}

func parseConfig(b []byte) (config, error) {
	c := config{}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return config{}, err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return config{}, errors.New("something follows the first document")
	}
	for name, v := range map[string]string{"listen": c.Listen, "certificate": c.Certificate, "key": c.Key, "ca": c.CA, "broker": c.Broker} {
		if v == "" {
			return config{}, fmt.Errorf("%s is missing", name)
		}
	}
	switch c.Log {
	case "", "debug", "info", "warn":
	default:
		return config{}, fmt.Errorf("log: %q is none of debug, info, warn", c.Log)
	}
	switch {
	case c.Epoch == 0:
		c.Epoch = 1
	case c.Epoch < 0 || c.Epoch > token.MaxEpoch:
		return config{}, fmt.Errorf("epoch: %d is not a number from 1 to %d", c.Epoch, token.MaxEpoch)
	}
	l := c.Limits
	for name, v := range map[string]int64{
		"handshakes": int64(l.Handshakes), "streams": int64(l.Streams), "uplinks": int64(l.Uplinks), "uplinks_per_agent": int64(l.UplinksPerAgent),
		"window_kib": int64(l.WindowKiB), "uplink_memory_mib": int64(l.UplinkMemoryMiB), "drain": int64(l.Drain / time.Second),
	} {
		if v < 0 || v > 1<<20 {
			return config{}, fmt.Errorf("limits: %s: %d is out of range", name, v)
		}
	}
	return c, nil
}

// inputs reads files, and environment variables where a name says env:NAME: what an orchestrator hands to a container never lies on its disk.
type inputs struct{ getenv func(string) string }

func (in inputs) read(name string) ([]byte, error) {
	variable, ok := strings.CutPrefix(name, "env:")
	if !ok {
		return readFile(name)
	}
	v := in.getenv(variable)
	switch {
	case v == "":
		return nil, fmt.Errorf("%s: nothing is in it", name)
	case len(v) > maxConfig:
		return nil, fmt.Errorf("%s is over %d bytes", name, maxConfig)
	}
	return []byte(v), nil
}

// secret refuses a file that others can read.
func (in inputs) secret(name string) ([]byte, error) {
	if strings.HasPrefix(name, "env:") {
		return in.read(name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&fs.FileMode(0o077) != 0 {
		return nil, fmt.Errorf("%s can be read by others: chmod 600 it", name)
	}
	return readFile(name)
}

func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s is over %d bytes", file, maxConfig)
	}
	return b, nil
}

func readPool(in inputs, file string) (*x509.CertPool, error) {
	b, err := in.read(file)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("ca: no certificate in %s", file)
	}
	return pool, nil
}
