package ssh

import (
	"io"
	"path"

	"github.com/sallyport/sallyport/agent/gate"
	"github.com/sallyport/sallyport/internal/access"
)

// shell is what gives this connection's command lines their meaning.
func (l *link) shell() shell {
	home := l.home()
	return shell{user: l.s.Login.User, home: home, cwd: home}
}

// classes says which protected data a command reads: files that a class names by their path. The room does not look into them, so that
// reading one is refused unless policy reveals the class.
func (l *link) classes(touches []access.Touch) []access.ClassUse {
	var uses []access.ClassUse
	for _, t := range touches {
		if t.Resource.Kind != access.KindPath || t.Effect != access.Read && t.Effect != access.Transfer {
			continue
		}
		for _, c := range l.s.Classes {
			for _, pattern := range c.Columns {
				if overlaps(pattern, t.Resource.Name) {
					uses = append(uses, access.ClassUse{Class: c.Name, On: t.Resource.Name, Derived: true, How: "in a file, which is not looked into"})
				}
			}
		}
	}
	return uses
}

// overlaps says whether a pattern of a class may name something that a touch reads: the path, or something below DIR/*.
func overlaps(pattern, name string) bool {
	if access.Match(pattern, name) {
		return true
	}
	dir, base := path.Split(name)
	return base == "*" && len(pattern) >= len(dir) && pattern[:len(dir)] == dir
}

// output is where a command's output goes.
func (c *channel) output(*gate.Permit) (out, errOut io.WriteCloser) {
	return plainOut{c.client}, plainOut{c.client.Stderr()}
}
