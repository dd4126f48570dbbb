package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/agent/config"
	"github.com/sallyport/sallyport/agent/protocol/postgres"
)

const postgresFile = `
broker: https://127.0.0.1:1/
state_dir: s
targets:
  app:
    protocol: PROTOCOL
    address: db1.internal:5432
    user: app
    password: {command: [aws, rds, generate-db-auth-token]}
    tls: {mode: MODE}
    postgres:
`

func TestPostgres(t *testing.T) {
	parse := func(protocol, mode, block string) (config.Config, error) {
		text := strings.NewReplacer("PROTOCOL", protocol, "MODE", mode).Replace(postgresFile)
		for line := range strings.Lines(block) {
			text += "      " + line
		}
		return config.Parse([]byte(text), "/etc/sallyport", rooms)
	}
	c, err := parse("postgres", "verify-full", "hosts: [db2.internal:5433]\ntarget_session_attrs: read-write\nauth: [password]\nchannel_binding: prefer\ndirect_tls: true\nprotocol: \"3.2\"\n"+
		"client_certificate: {cert_file: c.pem, key_file: /k.pem}\nfunction_calls: true\ntimeouts: {login: 3s, idle: 1h, idle_in_transaction: 1m, statement: 30s}\n")
	if err != nil {
		t.Fatal(err)
	}
	s := config.SettingsOf[postgres.Settings](&c)["app"]
	if len(s.Hosts) != 1 || s.Hosts[0].Address != "db2.internal:5433" || s.Hosts[0].ServerName != "db2.internal" || s.Attributes != "read-write" || s.Auth[0] != "password" ||
		!s.DirectTLS || s.Protocol != "3.2" || s.CertFile != "/etc/sallyport/c.pem" || s.KeyFile != "/k.pem" || !s.FunctionCalls || s.Login != 3*time.Second ||
		s.Idle != time.Hour || s.IdleInTransaction != time.Minute || s.Statement != 30*time.Second {
		t.Errorf("%+v", s)
	}
	for _, block := range []string{"hosts: [db2]\n", "target_session_attrs: best\n", "auth: [gss]\n", "channel_binding: maybe\n", "protocol: \"2.0\"\n", "client_certificate: {cert_file: c}\n",
		"timeouts: {idle: -1s}\n", "timeouts: {idle: 1000h}\n", "unknown: 1\n"} {
		if _, err := parse("postgres", "verify-full", block); err == nil {
			t.Errorf("%q passes", block)
		}
	}
	if _, err := parse("ssh", "verify-full", "protocol: \"3.0\"\n"); err == nil {
		t.Error("it passes on a target of ssh")
	}
}
