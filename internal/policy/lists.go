package policy

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
)

// How long a command may wait for a reviewer. A day is also what approval.Waiting looks back.
const (
	minHold = 10 * time.Second
	maxHold = 24 * time.Hour
)

// maxEntries bounds every list of the YAML files.
const maxEntries = 1000

var (
	labelKey  = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,62}$`)
	className = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
)

type targetsFile struct {
	Targets []struct {
		Name     access.TargetName `yaml:"name"`
		Protocol string            `yaml:"protocol"`
		Labels   map[string]string `yaml:"labels"`
		Database string            `yaml:"database"`
	} `yaml:"targets"`
}

func (l *loader) targets(body string) {
	var in targetsFile
	d, ok := decodeYAML(&l.findings, fileTargets, []byte(body), &in)
	if !ok || !l.bounded(d, len(in.Targets), "targets") {
		return
	}
	for i, t := range in.Targets {
		if err := access.CheckName("target", string(t.Name)); err != nil {
			l.errorf(fileTargets, d.at("targets", i, "name"), "%v", err)
		}
		if err := access.CheckName("protocol", t.Protocol); err != nil {
			l.errorf(fileTargets, d.at("targets", i, "protocol"), "%v", err)
		}
		if _, twice := l.bundle.Target(t.Name); twice {
			l.errorf(fileTargets, d.at("targets", i, "name"), "target %q is there twice", t.Name)
		}
		if !printable(t.Database, 128) {
			l.errorf(fileTargets, d.at("targets", i, "database"), "database: want at most 128 printable bytes")
		}
		for k, v := range t.Labels {
			if !labelKey.MatchString(k) || v == "" || !printable(v, 128) {
				l.errorf(fileTargets, d.at("targets", i, "labels", k), "label %q: want a key of a-z, 0-9, '_', '.', '-' and a value of 1 to 128 printable bytes", k)
			}
		}
		l.bundle.Targets = append(l.bundle.Targets, Target{Name: t.Name, Protocol: t.Protocol, Labels: t.Labels, Database: t.Database})
	}
	slices.SortFunc(l.bundle.Targets, func(a, b Target) int { return strings.Compare(string(a.Name), string(b.Name)) })
}

type holdsFile struct {
	Holds []struct {
		Name        string   `yaml:"name"`
		Reviewers   []string `yaml:"reviewers"`
		Expires     string   `yaml:"expires"`
		Description string   `yaml:"description"`
	} `yaml:"holds"`
}

func (l *loader) holds(body string) {
	var in holdsFile
	d, ok := decodeYAML(&l.findings, fileHolds, []byte(body), &in)
	if !ok || !l.bounded(d, len(in.Holds), "holds") {
		return
	}
	for i, h := range in.Holds {
		if err := access.CheckName("hold", h.Name); err != nil {
			l.errorf(fileHolds, d.at("holds", i, "name"), "%v", err)
		}
		if _, twice := l.bundle.Hold(h.Name); twice {
			l.errorf(fileHolds, d.at("holds", i, "name"), "hold %q is there twice", h.Name)
		}
		l.groups(d, h.Reviewers, "holds", i, "reviewers")
		if len(h.Reviewers) == 0 {
			l.errorf(fileHolds, d.at("holds", i), "hold %q has no reviewers", h.Name)
		}
		life, err := time.ParseDuration(h.Expires)
		if err != nil || life < minHold || life > maxHold || life%time.Second != 0 {
			l.errorf(fileHolds, d.at("holds", i, "expires"), "hold %q expires %q: want whole seconds from %s to %s, like 15m", h.Name, h.Expires, minHold, maxHold)
		}
		if !printable(h.Description, 300) {
			l.errorf(fileHolds, d.at("holds", i, "description"), "description: want at most 300 printable bytes")
		}
		l.holdAt[h.Name] = d.at("holds", i)
		l.bundle.Holds = append(l.bundle.Holds, Hold{Name: h.Name, Reviewers: h.Reviewers, Expires: life, Description: h.Description})
	}
	slices.SortFunc(l.bundle.Holds, func(a, b Hold) int { return strings.Compare(a.Name, b.Name) })
}

type classesFile struct {
	Classes []struct {
		Name     string   `yaml:"name"`
		Columns  []string `yaml:"columns"`
		Detector string   `yaml:"detector"`
		Mask     string   `yaml:"mask"`
	} `yaml:"classes"`
}

// classes keeps the order of the file: the first class that matches a column is its class.
func (l *loader) classes(body string) {
	var in classesFile
	d, ok := decodeYAML(&l.findings, fileClasses, []byte(body), &in)
	if !ok || !l.bounded(d, len(in.Classes), "classes") {
		return
	}
	owner, detects := map[string]string{}, map[string]string{}
	for i, c := range in.Classes {
		if !className.MatchString(c.Name) {
			l.errorf(fileClasses, d.at("classes", i, "name"), "class %q: want 1 to 63 of a-z, 0-9, '_' and '-', starting with a letter", c.Name)
		}
		if slices.ContainsFunc(l.bundle.Classes, func(o access.Class) bool { return o.Name == c.Name }) {
			l.errorf(fileClasses, d.at("classes", i, "name"), "class %q is there twice", c.Name)
		}
		if err := mask.Check(c.Mask); err != nil {
			l.errorf(fileClasses, d.at("classes", i, "mask"), "class %q: %v", c.Name, err)
		}
		if len(c.Columns) == 0 && c.Detector == "" || len(c.Columns) > maxEntries {
			l.errorf(fileClasses, d.at("classes", i), "class %q: want 1 to %d columns, or a detector", c.Name, maxEntries)
		}
		if at := d.at("classes", i, "detector"); c.Detector != "" && !slices.Contains(mask.Detectors, c.Detector) {
			l.errorf(fileClasses, at, "class %q: detector %q is not one of %s", c.Name, c.Detector, strings.Join(mask.Detectors, ", "))
		} else if other := detects[c.Detector]; c.Detector != "" && other != "" {
			l.errorf(fileClasses, at, "detector %q is in class %q already", c.Detector, other)
		}
		detects[c.Detector] = c.Name
		for n, pattern := range c.Columns {
			at := d.at("classes", i, "columns", n)
			if !columnPattern(pattern) {
				l.errorf(fileClasses, at, "column %q: want schema.table.column or /path/of/a/file, '*' for any run of characters", pattern)
			}
			if owner[pattern] != "" {
				l.errorf(fileClasses, at, "column %q is in class %q already", pattern, owner[pattern])
			}
			owner[pattern] = c.Name
		}
		l.bundle.Classes = append(l.bundle.Classes, access.Class{Name: c.Name, Columns: c.Columns, Detector: c.Detector, Mask: c.Mask})
	}
}

// columnPattern wants at least two dots, or the path of a file: another pattern could never match, and its class would protect nothing.
func columnPattern(p string) bool {
	if strings.HasPrefix(p, "/") {
		return printable(p, 256) && len(p) > 1
	}
	return printable(p, 256) && strings.Count(p, ".") >= 2 && !strings.HasPrefix(p, ".") && !strings.HasSuffix(p, ".")
}

type rolesFile struct {
	Auditors       []string `yaml:"auditors"`
	Administrators []string `yaml:"administrators"`
}

func (l *loader) roles(body string) {
	var in rolesFile
	d, ok := decodeYAML(&l.findings, fileRoles, []byte(body), &in)
	if !ok {
		return
	}
	l.groups(d, in.Auditors, "auditors")
	l.groups(d, in.Administrators, "administrators")
	l.bundle.Roles = Roles(in)
}

func (l *loader) bounded(d document, n int, key string) bool {
	if n > maxEntries {
		l.errorf(d.file, d.at(key), "over %d %s", maxEntries, key)
	}
	return n <= maxEntries
}

func (l *loader) groups(d document, groups []string, path ...any) {
	seen := map[string]bool{}
	for i, g := range groups {
		at := d.at(append(slices.Clone(path), i)...)
		if g == "" || !printable(g, 128) {
			l.errorf(d.file, at, "group %q: want 1 to 128 printable bytes", g)
		}
		if seen[g] {
			l.errorf(d.file, at, "group %q is there twice", g)
		}
		seen[g] = true
	}
}

func printable(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
