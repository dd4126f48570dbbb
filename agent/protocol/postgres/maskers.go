package postgres

import (
	"strings"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/mask"
	"github.com/sallyport/sallyport/internal/secret"
)

// maskers keeps what a session's results are masked with: a keyed mask and a finder cost more to make than a short result to send. It belongs
// to the back loop. The zero maskers has no key.
type maskers struct {
	key     secret.Secret
	masks   map[string]mask.Masker  // by specification
	finders map[string]*mask.Finder // by the names of what they look for
}

// mask is that of a specification. Of one that this agent does not have, or has no key for, nothing shows.
func (m *maskers) mask(spec string) mask.Masker {
	made, ok := m.masks[spec]
	if !ok {
		made, _ = mask.New(spec, m.key)
		if m.masks == nil {
			m.masks = map[string]mask.Masker{}
		}
		m.masks[spec] = made
	}
	return made
}

// maxFinders bounds the sets of classes that are kept: one for each answer of policy to the same classes.
const maxFinders = 64

// finder looks for the classes, all of one session; nil where there are none.
func (m *maskers) finder(classes []access.Class) *mask.Finder {
	if len(classes) == 0 {
		return nil
	}
	var names strings.Builder
	for _, c := range classes {
		names.WriteString(c.Name)
		names.WriteByte(0)
	}
	f := m.finders[names.String()]
	if f == nil {
		if f = mask.NewFinder(classes, m.key); m.finders == nil || len(m.finders) >= maxFinders {
			m.finders = map[string]*mask.Finder{}
		}
		m.finders[names.String()] = f
	}
	return f
}
