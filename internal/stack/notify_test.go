package stack_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/stack"
)

func TestNotifySettings(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		switch {
		case r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" || !strings.Contains(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256"):
			w.WriteHeader(http.StatusBadRequest)
		case strings.Contains(string(b), "binary"):
			_, _ = io.WriteString(w, `{"Name":"binary","SecretBinary":"AAAA"}`)
		default:
			_, _ = io.WriteString(w, `{"Name":"key","SecretString":"0123456789abcdef0123456789abcdef"}`)
		}
	}))
	defer s.Close()
	base := map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1", stack.TableApprovals: "approvals", "AWS_ENDPOINT_URL": s.URL}
	for name, tt := range map[string]struct {
		vars map[string]string
		ok   bool
	}{
		"nobody":                 {nil, true},
		"mail by SES":            {map[string]string{stack.MailFrom: "a@example.com", stack.MailTo: "b@example.com, c@example.com"}, true},
		"mail by SMTP":           {map[string]string{stack.MailFrom: "a@example.com", stack.MailTo: "b@example.com", stack.SMTP: "mail:587", stack.SMTPUser: "u", stack.SMTPSecret: "pw"}, true},
		"webhook":                {map[string]string{stack.WebhookURL: "https://x.example", stack.WebhookSecret: "key"}, true},
		"a sender alone":         {map[string]string{stack.MailFrom: "a@example.com"}, false},
		"recipients alone":       {map[string]string{stack.MailTo: "a@example.com"}, false},
		"webhook without secret": {map[string]string{stack.WebhookURL: "https://x.example"}, false},
		"no text":                {map[string]string{stack.WebhookURL: "https://x.example", stack.WebhookSecret: "binary"}, false},
		"user without secret":    {map[string]string{stack.MailFrom: "a@example.com", stack.MailTo: "b@example.com", stack.SMTP: "mail:587", stack.SMTPUser: "u"}, false},
	} {
		st := stack.Open(func(k string) string {
			if v, ok := tt.vars[k]; ok {
				return v
			}
			return base[k]
		})
		n := st.Notify(t.Context())
		if (st.Err() == nil) != tt.ok {
			t.Errorf("%s: %v", name, st.Err())
			continue
		}
		if tt.ok && ((n.SES != nil) != (name == "mail by SES") || (n.Key.Reveal() != "") != (name == "webhook") || (n.Password.Reveal() != "") != (name == "mail by SMTP")) {
			t.Errorf("%s: %+v", name, n)
		}
	}
}
