package run

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/sallyport/sallyport/internal/api"
)

// User is another user that the program runs as.
type User struct {
	Name, Home string
	UID, GID   int
	Groups     []uint32
}

// LookupUser reads a user by name or number. Only root may run a program as somebody else, and never as root by this way.
func LookupUser(name string) (*User, error) {
	if os.Geteuid() != 0 {
		return nil, api.Because(api.ErrBadRequest, "run it as root, or leave --as-user out", "--as-user needs root")
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, api.Because(api.ErrBadRequest, "", "--as-user %s: no such user", name)
		}
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if uidErr != nil || gidErr != nil {
		return nil, fmt.Errorf("--as-user %s: ids %q and %q are not numbers", name, u.Uid, u.Gid)
	}
	if uid == 0 {
		return nil, api.Because(api.ErrBadRequest, "name a user without privileges", "--as-user %s: that is root, from whom nothing isolates", name)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("--as-user %s: groups: %w", name, err)
	}
	out := &User{Name: u.Username, Home: u.HomeDir, UID: uid, GID: gid}
	for _, s := range ids {
		g, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--as-user %s: group %q is not a number", name, s)
		}
		out.Groups = append(out.Groups, uint32(g))
	}
	return out, nil
}
