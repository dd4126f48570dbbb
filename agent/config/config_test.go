package config_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/credential"
	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
	"github.com/sallyport/sallyport/agent/protocol/ssh"
	"github.com/sallyport/sallyport/internal/access"
)

// rooms are those of the agent.
var rooms = map[string]protocol.Settings{"postgres": postgres.ReadSettings, "ssh": ssh.ReadSettings}

const full = `
broker: https://broker.example:4433/#ca=x
state_dir: state
base_dir: sub
ready_file: ready
join_token: {file: join}
relays: [relay.example:443]
targets:
  app:
    protocol: postgres
    address: db.internal:5432
    database: shop
    user: app
    password: {file: pw}
    tls: {ca_file: ca.pem}
  local:
    protocol: postgres
    address: 127.0.0.1:5432
    user: app
    password: {env: PGPASSWORD}
    tls: {mode: disable}
  sock:
    protocol: postgres
    address: unix:/run/pg/.s.PGSQL.5432
    user: app
    password: {command: [pass, show, db]}
    tls: {mode: disable}
  pinned:
    protocol: postgres
    address: "[2001:db8::1]:5432"
    user: app
    password: {file: /abs/pw}
    tls: {mode: pin, pin: "` + pin + `"}
floor:
  deny: [{id: no-ddl, effects: [define, grant], resource: "*", hint: no}]
  mask: [{name: card, columns: ["*.card_number"], detector: card, mask: card}]
spool: {limit_bytes: 8388608}
recordings: {limit_bytes: 33554432}
`

const pin = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func TestParse(t *testing.T) {
	c, err := config.Parse([]byte(full), "/etc/sallyport", rooms)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	want := config.Config{
		Broker: "https://broker.example:4433/#ca=x", StateDir: "/etc/sallyport/sub/state", ReadyFile: "/etc/sallyport/sub/ready",
		JoinToken: credential.Source{File: "/etc/sallyport/sub/join"}, Relays: []string{"relay.example:443"}, Spool: 8 << 20, Recordings: 32 << 20,
		Targets: map[access.TargetName]config.Target{
			"app": {Protocol: "postgres", Network: "tcp", Address: "db.internal:5432", Database: "shop", User: "app",
				Password: credential.Source{File: "/etc/sallyport/sub/pw"},
				Peer:     protocol.Peer{Mode: "verify-full", ServerName: "db.internal", CAFile: "/etc/sallyport/sub/ca.pem"}},
			"local": {Protocol: "postgres", Network: "tcp", Address: "127.0.0.1:5432", User: "app",
				Password: credential.Source{Env: "PGPASSWORD"}, Peer: protocol.Peer{Mode: "disable"}},
			"sock": {Protocol: "postgres", Network: "unix", Address: "/run/pg/.s.PGSQL.5432", User: "app",
				Password: credential.Source{Command: []string{"pass", "show", "db"}}, Peer: protocol.Peer{Mode: "disable"}},
			"pinned": {Protocol: "postgres", Network: "tcp", Address: "[2001:db8::1]:5432", User: "app",
				Password: credential.Source{File: "/abs/pw"}, Peer: protocol.Peer{Mode: "pin", Pin: key}},
		},
		Floor: gate.Floor{
			Deny: []gate.FloorRule{{ID: "no-ddl", Effects: []access.Effect{access.Define, access.Grant}, Resource: "*", Hint: "no"}},
			Mask: []access.Class{{Name: "card", Columns: []string{"*.card_number"}, Detector: "card", Mask: "card"}},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

const least = `
broker: https://b
state_dir: /s
targets:
  app: {protocol: postgres, address: "127.0.0.1:5432", user: u, password: {env: P}, tls: {mode: disable}}
`

func TestRefuses(t *testing.T) {
	if _, err := config.Parse([]byte(least), "/", rooms); err != nil {
		t.Fatal(err)
	}
	const canary = "hunter2-canary"
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":                  {"state_dir: /s", "state_dir: /s\nfail_open: true", "fail_open"},
		"unknown key of a target":      {"user: u", "user: u, sslmode: prefer", "sslmode"},
		"key twice":                    {"state_dir: /s", "state_dir: /s\nstate_dir: /t", "already defined"},
		"second document":              {"state_dir: /s", "state_dir: /s\n---\nx: 1", ""},
		"plain http":                   {"https://b", "http://b", "want https"},
		"no broker":                    {"broker: https://b", "", "want https"},
		"no state":                     {"state_dir: /s", "", "state_dir"},
		"no targets":                   {"targets:", "targets: {}\nfloor:", ""},
		"name":                         {"app:", "App_1:", "target name"},
		"protocol":                     {"protocol: postgres, ", "", "protocol and user"},
		"user":                         {"user: u, ", "", "protocol and user"},
		"address without port":         {"127.0.0.1:5432", "127.0.0.1", "HOST:PORT"},
		"relative socket":              {"127.0.0.1:5432", "unix:sock", "absolute path"},
		"password inline":              {"{env: P}", canary, "never the value"},
		"password in a list":           {"{env: P}", "[" + canary + "]", "never the value"},
		"password under a strange key": {"{env: P}", "{value: " + canary + "}", "want file, env or"},
		"password as a map of maps":    {"{env: P}", "{file: {x: " + canary + "}}", "want file, env or"},
		"command in one text":          {"{env: P}", "{command: " + canary + "}", "list of texts"},
		"two sources":                  {"{env: P}", "{env: P, file: x}", "exactly one"},
		"no password":                  {", password: {env: P}", "", "exactly one"},
		"empty password source":        {"{env: P}", "{env: ''}", "exactly one"},
		"rds_token without TLS":        {"{env: P}", "{rds_token: eu-west-1}", "by TCP and TLS"},
		"rds_token by a socket":        {`"127.0.0.1:5432", user: u, password: {env: P}, tls: {mode: disable}`, `"unix:/s", user: u, password: {rds_token: eu-west-1}, tls: {server_name: x}`, "by TCP and TLS"},
		"rds_token as a key":           {"password: {env: P}", "private_key: {rds_token: eu-west-1}", "the password of a target"},
		"rds_token as a join token":    {"state_dir: /s", "state_dir: /s\njoin_token: {rds_token: eu-west-1}", "the password of a target"},
		"rds_token without a region":   {"{env: P}", "{rds_token: ''}", "exactly one"},
		"TLS mode":                     {"{mode: disable}", "{mode: prefer}", `"prefer"`},
		"no TLS far away":              {"127.0.0.1:5432", "10.0.0.1:5432", "loopback"},
		"no TLS by name":               {"127.0.0.1:5432", "localhost:5432", "loopback"},
		"disabled and pinned":          {"{mode: disable}", "{mode: disable, pin: x}", "nothing beside"},
		"pin without a pin":            {"{mode: disable}", "{mode: pin}", "64 hex digits"},
		"pin beside verify-full":       {"{mode: disable}", "{mode: verify-full, pin: x}", "belongs to mode pin"},
		"verify-full over a socket":    {`"127.0.0.1:5432", user: u, password: {env: P}, tls: {mode: disable}`, `"unix:/s", user: u, password: {env: P}`, "server_name"},
		"host key beside tls":          {"tls: {mode: disable}", "tls: {mode: disable}, host_key: x", "one of them"},
		"host key":                     {"tls: {mode: disable}", "host_key: ssh-ed25519", "TYPE BASE64"},
		"host key of another type":     {"tls: {mode: disable}", "host_key: ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIPCsLzdtMQLKQcIvJzLSdGb5ZqjJqsTSRU0qZhfVl6sf", "TYPE BASE64"},
		"fingerprint":                  {"tls: {mode: disable}", "host_key: 'SHA256:abc'", "FINGERPRINT"},
		"password and key":             {"password: {env: P}", "password: {env: P}, private_key: {env: K}", "one of them"},
		"relay":                        {"state_dir: /s", "state_dir: /s\nrelays: [x]", "HOST:PORT"},
		"join token inline":            {"state_dir: /s", "state_dir: /s\njoin_token: " + canary, "never the value"},
		"small recordings":             {"state_dir: /s", "state_dir: /s\nrecordings: {limit_bytes: 1}", "recordings.limit_bytes"},
		"small spool":                  {"state_dir: /s", "state_dir: /s\nspool: {limit_bytes: 1}", "limit_bytes"},
		"floor effect":                 {"state_dir: /s", "state_dir: /s\nfloor: {deny: [{id: x, effects: [destroy], resource: '*'}]}", "destroy"},
		"floor without resource":       {"state_dir: /s", "state_dir: /s\nfloor: {deny: [{id: x}]}", "resource"},
		"floor without name":           {"state_dir: /s", "state_dir: /s\nfloor: {deny: [{resource: '*'}]}", "rule name"},
		"floor class":                  {"state_dir: /s", "state_dir: /s\nfloor: {mask: [{name: 'Card'}]}", "class name"},
		"floor mask":                   {"state_dir: /s", "state_dir: /s\nfloor: {mask: [{name: card, mask: blur, columns: ['*']}]}", "blur"},
		"floor detector":               {"state_dir: /s", "state_dir: /s\nfloor: {mask: [{name: card, mask: card, detector: pan}]}", "pan"},
		"floor columns":                {"state_dir: /s", "state_dir: /s\nfloor: {mask: [{name: card, mask: card}]}", "columns"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(least, c.old) {
				t.Fatalf("%q is not in the example", c.old)
			}
			_, err := config.Parse([]byte(strings.Replace(least, c.old, c.new, 1)), "/", rooms)
			if err == nil {
				t.Fatal("it was taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error tells the credential: %v", err)
			}
		})
	}
	if _, err := config.Parse(make([]byte, 2<<20), "/", rooms); err == nil || !strings.Contains(err.Error(), "over") {
		t.Error(err)
	}
}

func TestRDSToken(t *testing.T) {
	b := strings.Replace(least, `"127.0.0.1:5432", user: u, password: {env: P}, tls: {mode: disable}`, `"db.internal:5432", user: u, password: {rds_token: eu-west-1}`, 1)
	c, err := config.Parse([]byte(b), "/", rooms)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Targets["app"].Password.RDS, (credential.RDS{Region: "eu-west-1", Endpoint: "db.internal:5432", User: "u"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestHostKey(t *testing.T) {
	const key = "AAAAC3NzaC1lZDI1NTE5AAAAIPCsLzdtMQLKQcIvJzLSdGb5ZqjJqsTSRU0qZhfVl6sf"
	blob, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(blob)
	for _, text := range []string{"ssh-ed25519 " + key, "ssh-ed25519 " + key + " root@web", "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])} {
		b := strings.Replace(least, "password: {env: P}, tls: {mode: disable}", "private_key: {env: K}, host_key: '"+text+"'", 1)
		b = strings.Replace(b, "protocol: postgres", "protocol: ssh", 1)
		c, err := config.Parse([]byte(b), "/", rooms)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if app := c.Targets["app"]; app.Peer.Mode != "pin" || !bytes.Equal(app.Peer.Pin, sum[:]) || app.Password.Env != "K" {
			t.Errorf("%s: %+v", text, app)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(least, "/s", "state", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path, rooms)
	if err != nil || c.StateDir != filepath.Join(filepath.Dir(path), "state") {
		t.Fatal(c.StateDir, err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, "/nonexistent"} {
		if _, err := config.Load(p, rooms); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(least))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := config.Parse(b, "/etc", rooms)
		if err == nil && (len(c.Targets) == 0 || c.StateDir == "" || !strings.HasPrefix(c.Broker, "https://")) {
			t.Fatalf("%+v", c)
		}
	})
}
