package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a policy directory. They bound what loading costs; a bundle of a thousand policies takes some 300 kB.
const (
	MaxFile    = 256 << 10 // bytes of one file
	MaxFiles   = 512
	MaxArchive = 4 << 20 // bytes of all files, and of an Archive
	maxNesting = 64      // brackets within brackets in a .cedar file: both parsers below us recurse
)

// Names of the files of a directory, beside *.cedar and tests/*.yaml.
const (
	fileTargets = "targets.yaml"
	fileHolds   = "holds.yaml"
	fileClasses = "classes.yaml"
	fileRoles   = "roles.yaml"
	dirTests    = "tests"
)

// file is one file of a bundle. Its JSON is part of the Archive.
type file struct {
	Name string `json:"name"`
	Body string `json:"body"`
}

// belongs says whether a file of this name is part of a bundle.
func belongs(name string) bool {
	switch name {
	case fileTargets, fileHolds, fileClasses, fileRoles:
		return true
	}
	dir, base := path.Split(name)
	if strings.HasPrefix(base, ".") || !fs.ValidPath(name) {
		return false
	}
	return dir == "" && path.Ext(base) == ".cedar" || dir == dirTests+"/" && path.Ext(base) == ".yaml"
}

// ignored says whether a directory may hold a file without it being part of the bundle: notes for people, and what tools hide.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || name == "LICENSE" || path.Ext(name) == ".md"
}

// readDir reads the files of a bundle, sorted by name.
func readDir(f *findings, dir fs.FS) []file {
	var files []file
	total := 0
	for _, sub := range []string{".", dirTests} {
		entries, err := fs.ReadDir(dir, sub)
		if err != nil {
			if sub == "." || !errors.Is(err, fs.ErrNotExist) {
				f.errorf(sub, place{}, "%v", err)
			}
			continue
		}
		for _, e := range entries {
			name := path.Join(sub, e.Name())
			if ignored(e.Name()) || name == dirTests && e.IsDir() {
				continue
			}
			if e.IsDir() || !belongs(name) {
				f.errorf(name, place{}, "not part of a policy directory: want *.cedar, targets.yaml, holds.yaml, classes.yaml, roles.yaml, tests/*.yaml")
				continue
			}
			body, err := readFile(dir, name)
			if err != nil {
				f.errorf(name, place{}, "%v", err)
				continue
			}
			if total += len(body); total > MaxArchive || len(files) == MaxFiles {
				f.errorf(name, place{}, "the directory is over %d files or %d bytes", MaxFiles, MaxArchive)
				return nil
			}
			files = append(files, file{Name: name, Body: string(body)})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	return files
}

func readFile(dir fs.FS, name string) ([]byte, error) {
	r, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, err
	}
	return body, nil
}

// checkText says why a body is not read at all.
func checkText(body string) error {
	switch {
	case len(body) > MaxFile:
		return fmt.Errorf("over %d bytes", MaxFile)
	case !utf8.ValidString(body):
		return errors.New("not UTF-8")
	case strings.ContainsRune(body, 0):
		return errors.New("a NUL byte")
	}
	return nil
}
