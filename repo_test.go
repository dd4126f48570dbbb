// Package sallyport holds the tests of the repository as a whole: directions of imports, package docs, licences.
// It refuses a dependency that nobody decided on.
package sallyport

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sallyport/sallyport"

type pkg struct {
	ImportPath, Dir string
	GoFiles         []string
	CgoFiles        []string
	Imports         []string
	Module          *struct {
		Path, Version, Dir string
		Main               bool
	}
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,CgoFiles,Imports,Module"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// room is where a package of ours lives, for the rules below: its first directory, or two where those are apart.
func room(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	parts := strings.Split(path, "/")
	switch parts[0] {
	case "functions", "internal":
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return parts[0]
}

// Nouns know nothing of us; rules know nouns; components know rules and never each other; only the whole assembles.
func TestImportDirections(t *testing.T) {
	nouns := []string{"internal/access"}
	rules := []string{"internal/api", "internal/store", "internal/policy", "internal/approval", "internal/audit", "internal/mask", "internal/sqltext",
		"internal/token", "internal/idtoken", "internal/session", "internal/bundles", "internal/broker", "internal/secret", "internal/sqlite", "internal/dir", "internal/keyfile", "internal/dynamo", "internal/s3", "internal/kms", "internal/secrets",
		"internal/stack", "internal/lambda", "internal/agents", "internal/ses", "internal/sigv4", "internal/telemetry", "internal/recording", "internal/columns", "policies"}
	for _, p := range list(t, "./...") {
		from := room(p.ImportPath)
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module+"/") {
				checkForeign(t, p.ImportPath, from, imp)
				continue
			}
			to := room(imp)
			switch {
			case from == to || from == "cmd" || from == "localstack":
			case slices.Contains(nouns, from):
				t.Errorf("%s is a noun and imports %s", p.ImportPath, to)
			case slices.Contains(rules, to) || slices.Contains(nouns, to):
			case slices.Contains(rules, from):
				t.Errorf("%s is a rule and imports the component %s", p.ImportPath, to)
			case to == "tunnel" && (from == "agent" || from == "client"):
			case strings.HasSuffix(p.ImportPath, "/lambda"):
			case strings.HasSuffix(imp, "test") || strings.HasSuffix(p.ImportPath, "test"): // harnesses
			default:
				t.Errorf("%s imports %s: components meet only in internal/api and tunnel", p.ImportPath, imp)
			}
		}
	}
}

// checkForeign keeps a library in the one room that needs it.
func checkForeign(t *testing.T, path, from, imp string) {
	only := map[string]func() bool{
		"github.com/aws/aws-lambda-go": func() bool { return strings.HasSuffix(path, "/lambda") },
		"github.com/aws/aws-sdk-go-v2": func() bool {
			return slices.Contains([]string{"internal/dynamo", "internal/s3", "internal/kms", "internal/secrets", "internal/ses", "internal/sigv4", "internal/stack", "localstack"}, from)
		},
		"github.com/pganalyze/pg_query_go": func() bool { return strings.HasPrefix(path, module+"/agent/protocol/postgres") },
		"github.com/jackc/pgx": func() bool {
			return strings.HasPrefix(path, module+"/agent/protocol/postgres") || from == "localstack" ||
				path == module+"/client/endpoint/postgres" || // says in PostgreSQL's words that no agent could be reached
				path == module+"/client/classify" // is a client itself
		},
		"github.com/google/go-containerregistry": func() bool { return from == "infra" },
		"github.com/hashicorp/yamux":             func() bool { return from == "tunnel" },
		"github.com/cedar-policy/cedar-go":       func() bool { return from == "internal/policy" },
		"github.com/parquet-go/parquet-go":       func() bool { return from == "internal/columns" },
		"modernc.org/sqlite":                     func() bool { return from == "internal/sqlite" },
		"github.com/spf13/cobra":                 func() bool { return from == "cmd" },
		"github.com/coreos/go-oidc":              func() bool { return slices.Contains([]string{"internal/idtoken", "client"}, from) },
		"github.com/golang-jwt/jwt":              func() bool { return from == "internal/token" },
		"golang.org/x/mod/sumdb":                 func() bool { return from == "internal/audit" || from == "functions/seal" },
	}
	for lib, allowed := range only {
		if strings.HasPrefix(imp, lib) && !allowed() {
			t.Errorf("%s imports %s, which belongs elsewhere", path, imp)
		}
	}
}

func TestEveryPackageSaysWhatItDoesAndRefuses(t *testing.T) {
	doc := regexp.MustCompile(`(?m)^// (Package|Command) .*\n(?://.*\n)*package `)
	for _, p := range list(t, "./...") {
		n := 0
		for _, f := range append(p.GoFiles, p.CgoFiles...) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range doc.FindAll(b, -1) {
				n++
				if bytes.Count(c, []byte("\n")) < 2 {
					t.Errorf("%s: %s: the doc has no second sentence: what it refuses", p.ImportPath, f)
				}
			}
		}
		if n != 1 && len(p.GoFiles)+len(p.CgoFiles) > 0 {
			t.Errorf("%s has %d package docs, want 1", p.ImportPath, n)
		}
		for _, part := range strings.Split(p.ImportPath, "/") {
			if slices.Contains([]string{"common", "util", "utils", "core", "types", "shared", "helpers"}, part) {
				t.Errorf("%s: a package is named by what it does", p.ImportPath)
			}
		}
	}
}

// Licences that the project may link: Apache-2.0, MIT, BSD, ISC, and MPL-2.0 unmodified.
func TestLicences(t *testing.T) {
	kinds := []struct{ name, mark string }{
		{"Apache-2.0", "Apache License"}, {"MIT", "Permission is hereby granted, free of charge"},
		{"BSD", "Redistribution and use in source and binary forms"}, {"ISC", "Permission to use, copy, modify, and"},
		{"MPL-2.0", "Mozilla Public License"},
	}
	seen := map[string]bool{}
	for _, p := range list(t, "-deps", "-test", "./...") {
		m := p.Module
		if m == nil || m.Main || seen[m.Path] {
			continue
		}
		seen[m.Path] = true
		files, err := filepath.Glob(filepath.Join(m.Dir, "[LCl][IOi][CPc]*"))
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			text := strings.Join(strings.Fields(string(b)), " ")
			for _, k := range kinds {
				if found == "" && strings.Contains(text, k.mark) {
					found = k.name
				}
			}
			if strings.Contains(text, "GNU GENERAL PUBLIC LICENSE") || strings.Contains(text, "GNU AFFERO") {
				t.Errorf("%s: %s is under the GPL", m.Path, f)
			}
		}
		if found == "" {
			t.Errorf("%s %s: no licence that the project may link (%q)", m.Path, m.Version, files)
		}
	}
	if len(seen) < 5 {
		t.Fatalf("only %d modules were looked at", len(seen))
	}
}
