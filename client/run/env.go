package run

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/client/endpoint"
	"github.com/sallyport/sallyport/internal/access"
)

// EnvSock names the variable that tells programs of a run where to ask.
const EnvSock = "SALLYPORT_SOCK"

// Variables that another user's program keeps of ours: how to find programs and how to show text.
var kept = []string{"PATH", "TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ"}

// environment is what the program of a run gets. Everything of Sallyport's is taken out of base first: the state directory, the
// broker, and what a run around this one had put there. So is whatever would lead clients of the targets elsewhere.
func environment(base []string, u *User, clears func(name string) bool, add []string) []string {
	var env []string
	for _, kv := range base {
		name, _, ok := strings.Cut(kv, "=")
		switch {
		case !ok || strings.HasPrefix(name, "SALLYPORT_") || clears(name):
		case u != nil && !slices.Contains(kept, name) && !strings.HasPrefix(name, "LC_"):
		default:
			env = append(env, kv)
		}
	}
	if u != nil {
		env = append(env, "HOME="+u.Home, "USER="+u.Name, "LOGNAME="+u.Name)
	}
	return append(env, add...)
}

// dsnVariable is SALLYPORT_<NAME>_DSN.
func dsnVariable(t access.TargetName) string {
	return "SALLYPORT_" + strings.ToUpper(strings.ReplaceAll(string(t), "-", "_")) + "_DSN"
}

// ClientEnv is what a client of one target gets: our environment, less what would lead it elsewhere, and where the target is.
func ClientEnv(base []string, p endpoint.Protocol, l endpoint.Local) []string {
	var env []string
	for _, kv := range base {
		if name, _, ok := strings.Cut(kv, "="); ok && !p.Clears(name) {
			env = append(env, kv)
		}
	}
	return append(env, p.Env(l)...)
}
