package stack

import (
	"fmt"
	"net/url"
	"strings"
)

// Functions is the setting for functions/token: NAME=URL, separated by commas, of the functions that have URLs of their own.
const Functions = "SALLYPORT_FUNCTIONS"

// FunctionsIAM is the same for the URLs that ask for an AWS identity.
const FunctionsIAM = "SALLYPORT_FUNCTIONS_IAM"

// Functions are the URLs of the functions that are not served where discovery is; nil when all are.
func (s *Stack) Functions() map[string]string { return s.named(Functions) }

// FunctionsIAM are the URLs that ask agents for an AWS identity; nil where there are none.
func (s *Stack) FunctionsIAM() map[string]string { return s.named(FunctionsIAM) }

func (s *Stack) named(setting string) map[string]string {
	v := s.getenv(setting)
	if v == "" {
		return nil
	}
	all := map[string]string{}
	for part := range strings.SplitSeq(v, ",") {
		name, at, ok := strings.Cut(part, "=")
		if u, err := url.Parse(at); !ok || name == "" || err != nil || u.Host == "" {
			s.fail(fmt.Errorf("%s: %q is not NAME=URL", setting, part))
			return nil
		}
		all[name] = at
	}
	return all
}
