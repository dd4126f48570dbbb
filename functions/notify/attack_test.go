package notify_test

import (
	"io"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/brokertest"
)

// A client may name a table as it likes. A message that made a link of the name would lead a reviewer to the client's page, above the one to ours.
func TestANameIsNoLink(t *testing.T) {
	w, b := brokertest.New(t), &box{posts: map[string][][]byte{}}
	n := newNotifier(t, w, b, nil)
	rec := record(w, 1)
	rec.Verb = "see www.evil.example now"
	rec.Lineage.Path[1].Name = "https://evil.example/approve/" + string(rec.ID)
	rec.Touches = nil
	names := []string{"public.https://evil.example/approve/1", "public.sallyport-login.example/approve?x=1", "HTTPS://EVIL.EXAMPLE", "WWW.EVIL.EXAMPLE", "evil.пример/x", "evil.example#x"}
	for _, name := range append(names, "public.customers", "/etc/nginx/www", "db.internal:5432") {
		rec.Touches = append(rec.Touches, access.Touch{Effect: access.Write, Resource: access.Resource{Kind: access.KindTable, Name: name}})
	}
	put(t, w.Items, rec, 0)
	brokertest.Must(t, changed(t, n, rec))
	m, err := mail.ReadMessage(strings.NewReader(string(b.mails[0].Raw)))
	brokertest.Must(t, err)
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	brokertest.Must(t, err)
	said := m.Header.Get("Subject") + string(body)
	for _, posts := range b.posts {
		for _, p := range posts {
			said += string(p)
		}
	}
	link := "https://gate.example/approve/" + string(rec.ID)
	if strings.Count(said, link) != 2 {
		t.Errorf("our own link is there %d times", strings.Count(said, link))
	}
	rest := strings.ToLower(strings.ReplaceAll(said, link, ""))
	for _, no := range []string{"://", "www.evil", "evil.example/", "evil.example#", "login.example/", "evil.пример/"} {
		if strings.Contains(rest, no) {
			t.Errorf("%q is in %s", no, said)
		}
	}
	for _, yes := range []string{"public.customers", "/etc/nginx/www", "db.internal:5432", "https[:]//evil[.]example/approve"} {
		if !strings.Contains(said, yes) {
			t.Errorf("no %q in %s", yes, said)
		}
	}
}
