package config_test

import (
	"crypto/ed25519"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/protocol"
	"github.com/sallyport/sallyport/agent/protocol/ssh"
)

func authority(t *testing.T) (gossh.PublicKey, string) {
	t.Helper()
	key, err := gossh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, 32)).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key)))
}

const host = `
broker: https://b
state_dir: /s
targets:
  web: {protocol: ssh, address: "web.internal:2222", user: deploy, %s}
`

func TestSSH(t *testing.T) {
	key, text := authority(t)
	pinned := protocol.Peer{Mode: "pin", Pin: make([]byte, 32)}
	for name, c := range map[string]struct {
		yaml string
		ssh  ssh.Settings
		peer protocol.Peer
	}{
		"all that can be allowed": {`password: {env: P}, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ssh: {shells: [terminal, line], forward: true, listen: true, env: [APP_*, TZ], keep_files: true, omit_input: true, reap: true}`,
			ssh.Settings{Shells: []ssh.Mode{ssh.ModeTerminal, ssh.ModeLine}, Forward: true, Listen: true, Env: []string{"APP_*", "TZ"}, KeepFiles: true, OmitInput: true, Reap: true}, pinned},
		"known hosts": {`password: {env: P}, ssh: {known_hosts: known, revoked_host_keys: revoked}`,
			ssh.Settings{RevokedFile: "/etc/revoked"}, protocol.Peer{Mode: "verify-full", ServerName: "web.internal:2222", CAFile: "/etc/known"}},
		"an authority": {`password: {env: P}, ssh: {host_ca: ["` + text + `"], host_name: web.example}`,
			ssh.Settings{HostCAs: []gossh.PublicKey{key}}, protocol.Peer{Mode: "verify-full", ServerName: "web.example:2222"}},
		"an old host": {`password: {env: P}, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ssh: {old_algorithms: [ssh-rsa, diffie-hellman-group14-sha1], without_strict_kex: true}`,
			ssh.Settings{Algorithms: []string{"ssh-rsa", "diffie-hellman-group14-sha1"}, NoStrictKex: true}, pinned},
		"certificates of its own": {`user_ca: {file: ca}, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ssh: {certificate: {minutes: 2, principals: [deploy], force_command: x, source_address: ["10.0.0.0/8"]}}`,
			ssh.Settings{Certificate: &ssh.Certificate{Validity: 2 * time.Minute, Principals: []string{"deploy"}, ForceCommand: "x", SourceAddress: []string{"10.0.0.0/8"}}}, pinned},
		"certificates without more": {`user_ca: {file: ca}, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`,
			ssh.Settings{Certificate: &ssh.Certificate{Validity: ssh.DefaultValidity}}, pinned},
	} {
		got, err := config.Parse(fmt.Appendf(nil, host, c.yaml), "/etc", rooms)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if web := got.Targets["web"]; !reflect.DeepEqual(web.Peer, c.peer) || !reflect.DeepEqual(config.SettingsOf[ssh.Settings](&got)["web"], c.ssh) {
			t.Errorf("%s:\n got %+v %+v\nwant %+v %+v", name, web.Settings, web.Peer, c.ssh, c.peer)
		}
	}
}

func TestSSHRefuses(t *testing.T) {
	_, text := authority(t)
	const pinned = `password: {env: P}, host_key: "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", `
	for yaml, want := range map[string]string{
		pinned + `ssh: {shell: line}`:                                                              "shell",
		pinned + `ssh: {shells: [raw]}`:                                                            `"raw"`,
		pinned + `ssh: {shells: [line, line]}`:                                                     "twice",
		pinned + `ssh: {env: [LD_PRELOAD]}`:                                                        "LD_PRELOAD",
		pinned + `ssh: {env: ["*"]}`:                                                               "no name",
		pinned + `ssh: {env: ["L*"]}`:                                                              "L*",
		pinned + `ssh: {env: [PATH]}`:                                                              "PATH",
		pinned + `ssh: {old_algorithms: [rot13]}`:                                                  "rot13",
		pinned + `ssh: {certificate: {minutes: 2}}`:                                                "user_ca",
		pinned + `ssh: {known_hosts: k}`:                                                           "one of them",
		pinned + `ssh: {host_name: x}`:                                                             "host_name",
		pinned + `user_ca: {file: x}`:                                                              "one of them",
		`password: {env: P}, ssh: {host_ca: [x]}`:                                                  "TYPE BASE64",
		`password: {env: P}, ssh: {host_ca: ["ssh-rsa ` + strings.Fields(text)[1] + `"]}`:          "of that type",
		`password: {env: P}, tls: {mode: pin}, ssh: {host_ca: ["` + text + `"]}`:                   "one of them",
		`user_ca: {file: x}, ssh: {host_ca: ["` + text + `"], certificate: {minutes: 61}}`:         "validity",
		`user_ca: {file: x}, ssh: {host_ca: ["` + text + `"], certificate: {minutes: -1}}`:         "validity",
		`user_ca: {file: x}, ssh: {host_ca: ["` + text + `"], certificate: {source_address: [x]}}`: "ADDRESS/BITS",
	} {
		_, err := config.Parse(fmt.Appendf(nil, host, yaml), "/", rooms)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", yaml, err, want)
		}
	}
	b := strings.Replace(fmt.Sprintf(host, pinned+"ssh: {forward: true}"), "protocol: ssh", "protocol: postgres", 1)
	if _, err := config.Parse([]byte(b), "/", rooms); err == nil || !strings.Contains(err.Error(), "field ssh not found") {
		t.Errorf("ssh for another protocol: %v", err)
	}
}
