package deployed

import (
	"crypto/rand"

	"github.com/sallyport/sallyport/localstack/idp"
)

// People are the development provider's, with passwords of this run.
func People() []idp.User {
	users := []idp.User{
		{Name: "alice", Groups: []string{"engineers"}},
		{Name: "rita", Groups: []string{"reviewers"}},
		{Name: "adam", Groups: []string{"administrators", "auditors"}},
	}
	for i := range users {
		users[i].Password = rand.Text()
	}
	return users
}
