// Package policies carries the ready-made policy packs: directories that a stack can start from.
// It refuses names of packs that there are not.
package policies

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
)

// FS holds one directory per pack.
//
//go:embed guarded-postgres guarded-ssh migrations-postgres readonly-postgres
var FS embed.FS

// Names lists the packs.
var Names = []string{"guarded-postgres", "guarded-ssh", "migrations-postgres", "readonly-postgres"}

// Pack returns a pack's directory, for policy.Load.
func Pack(name string) (fs.FS, error) {
	if !slices.Contains(Names, name) {
		return nil, fmt.Errorf("policy pack %q: want one of %v", name, Names)
	}
	return fs.Sub(FS, name)
}
