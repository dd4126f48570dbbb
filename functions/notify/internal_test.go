package notify

import (
	"net/netip"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPublic(t *testing.T) {
	for _, s := range []string{"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.0.8", "198.18.0.1", "240.0.0.1",
		"::1", "::", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "::169.254.169.254", "2002:a9fe:a9fe::1", "2001:db8::1", "fec0::1"} {
		if public(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for a public address", s)
		}
	}
	for _, s := range []string{"1.1.1.1", "93.184.215.14", "::ffff:93.184.215.14", "2606:4700:4700::1111"} {
		if !public(netip.MustParseAddr(s)) {
			t.Errorf("%s is not taken for a public address", s)
		}
	}
	if public(netip.Addr{}) || publicOnly("tcp", "nonsense", nil) == nil {
		t.Error("what is no address is public")
	}
}

func TestAddresses(t *testing.T) {
	for _, s := range []string{"", "x", "a@b@c", "Bob <bob@example.com>", "bob@example.com\r\nBcc: x@example.com", "bob@example.com, eve@example.com", " bob@example.com"} {
		if checkAddress(s) == nil {
			t.Errorf("%q is taken for an address", s)
		}
	}
	if err := checkAddress("bob+gate@example.com"); err != nil {
		t.Error(err)
	}
}

func FuzzNamed(f *testing.F) {
	f.Add("a\r\nb")
	f.Add("\u202e\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		out := named(s)
		if !utf8.ValidString(out) || utf8.RuneCountInString(out) > 3*(maxName+1) || linked.MatchString(out) {
			t.Fatalf("%q", out)
		}
		for _, r := range out {
			if unicode.IsControl(r) || !unicode.IsGraphic(r) {
				t.Fatalf("%q in %q", r, out)
			}
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"until":"2026-01-01T00:00:00Z","attempts":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEntry(b); err == nil && e.Done && len(b) < 4 {
			t.Fatalf("%+v out of %q", e, b)
		}
	})
}
