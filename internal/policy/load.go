package policy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// Schema is what policies may speak of, in Cedar's schema language.
//
//go:embed schema.cedarschema
var Schema string

var validator = sync.OnceValue(func() *validate.Validator { return newValidator(Schema) })

func newValidator(text string) *validate.Validator {
	var s schema.Schema
	err := s.UnmarshalCedar([]byte(text))
	resolved, rerr := s.Resolve()
	if err = errors.Join(err, rerr); err != nil {
		panic(fmt.Sprintf("the embedded schema: %v", err)) // a fault of the build: every test meets it
	}
	return validate.New(resolved)
}

// loader carries what is known while the files of one bundle are read.
type loader struct {
	findings
	bundle *Bundle
	byID   map[string]*rule
	holdAt map[string]place // holds that no policy has named yet
}

// load reads the files of a bundle: lists first, because policies and cases refer to them.
func load(files []file, typecheck bool) *loader {
	l := &loader{bundle: &Bundle{memo: new(memo)}, byID: map[string]*rule{}, holdAt: map[string]place{}}
	l.files(files, func(name string) func(file) {
		readers := map[string]func(string){fileTargets: l.targets, fileHolds: l.holds, fileClasses: l.classes, fileRoles: l.roles}
		if read, ok := readers[name]; ok {
			return func(f file) { read(f.Body) }
		}
		return nil
	})
	if len(l.bundle.Targets) == 0 {
		l.errorf(fileTargets, place{}, "no target is named")
	}
	l.files(files, func(name string) func(file) {
		switch path.Ext(name) {
		case ".cedar":
			return l.policies
		}
		if strings.HasPrefix(name, dirTests+"/") {
			return l.testCases
		}
		return nil
	})
	if typecheck {
		for _, r := range l.bundle.rules {
			l.typecheck(validator(), r)
		}
	}
	for name, at := range l.holdAt {
		l.warnf(fileHolds, at, "hold %q is named by no policy", name)
	}
	l.bundle.index = newIndex(l.bundle.rules)
	return l
}

// files hands each file for which there is a reader to it.
func (l *loader) files(files []file, reader func(name string) func(file)) {
	for _, f := range files {
		read := reader(f.Name)
		if read == nil {
			continue
		}
		if err := checkText(f.Body); err != nil {
			l.errorf(f.Name, place{}, "%v", err)
			continue
		}
		read(f)
	}
}

// archive is the JSON of a bundle's files.
type archive struct {
	V     int    `json:"v"` // 1
	Files []file `json:"files"`
}

// seal gives a bundle that has no problems its bytes and address.
func (l *loader) seal(files []file) (*Bundle, error) {
	if err := l.failed(); err != nil {
		return nil, err
	}
	l.bundle.archive, _ = json.Marshal(archive{V: 1, Files: files}) // strings and an int: cannot fail
	sum := sha256.Sum256(l.bundle.archive)
	l.bundle.Address = "sha256:" + hex.EncodeToString(sum[:])
	return l.bundle, nil
}

// Load reads a policy directory strictly: *.cedar, targets.yaml, holds.yaml, classes.yaml, roles.yaml and tests/*.yaml. Beside
// them it may hold *.md, LICENSE and hidden files. The error is Problems, with every problem that was found.
func Load(dir fs.FS) (*Bundle, error) {
	l, files := lint(dir)
	return l.seal(files)
}

// With is the bundle as it would load with one of its files added or replaced.
func (b *Bundle) With(name string, body []byte) (*Bundle, error) {
	if !belongs(name) {
		return nil, fmt.Errorf("%s is not a file of a policy", name)
	}
	var a archive
	_ = json.Unmarshal(b.archive, &a) // what seal wrote: cannot fail
	files := append(slices.DeleteFunc(a.Files, func(f file) bool { return f.Name == name }), file{Name: name, Body: string(body)})
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	return load(files, true).seal(files)
}

// Lint finds every problem of a policy directory: errors, for which Load refuses it, and warnings.
func Lint(dir fs.FS) []Problem {
	l, _ := lint(dir)
	for _, r := range l.bundle.rules {
		l.advise(r)
	}
	if len(l.bundle.cases) == 0 {
		l.warnf(dirTests, place{}, "no test cases: nothing shows that the policies do what they are meant to")
	}
	return l.sorted()
}

func lint(dir fs.FS) (*loader, []file) {
	var f findings
	files := readDir(&f, dir)
	l := load(files, true)
	l.list = append(f.list, l.list...)
	return l, files
}

// advise warns of a policy that says more than its author may have meant.
func (l *loader) advise(r *rule) {
	open := r.principal.IsZero() && r.resource.IsZero() && len(r.policy.AST().Conditions) == 0
	if open && r.permit && r.actions == nil {
		l.warnf(r.file, r.at, "%s permits everything to everybody", r.id)
	}
	if open && r.permit && len(r.actions) == 1 && r.actions[0] == actionReveal {
		l.warnf(r.file, r.at, "%s reveals every class of data to everybody", r.id)
	}
}

// Archive is the bundle as canonical bytes, at most MaxArchive and what JSON adds. The caller must not change them.
func (b *Bundle) Archive() []byte { return b.archive }

// FromArchive reads what Archive wrote; other bytes, even with the same meaning, are an error. The policies are not type-checked
// again: Load did, and one that cannot be evaluated denies.
func FromArchive(body []byte) (*Bundle, error) {
	if len(body) > 2*MaxArchive {
		return nil, fmt.Errorf("read bundle: over %d bytes", 2*MaxArchive)
	}
	var a archive
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	if a.V != 1 || len(a.Files) > MaxFiles {
		return nil, fmt.Errorf("read bundle: version %d with %d files, want version 1 with at most %d", a.V, len(a.Files), MaxFiles)
	}
	for i, f := range a.Files {
		if !belongs(f.Name) || i > 0 && a.Files[i-1].Name >= f.Name {
			return nil, fmt.Errorf("read bundle: file %q does not belong or is out of order", f.Name)
		}
	}
	b, err := load(a.Files, false).seal(a.Files)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	if !bytes.Equal(b.archive, body) {
		return nil, errors.New("read bundle: not the canonical bytes")
	}
	return b, nil
}
