package main

import (
	"bytes"
	"crypto/md5"  //nolint:gosec // what an attacker computes
	"crypto/sha1" //nolint:gosec // what an attacker computes
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// The masked values of seed.sql. Words are their parts that no mask may let through: masks keep the ends of a mail address and of a card.
var (
	values = []string{"zqxjkvwpyf@wvxqzkjphb.example", "4929071828364455", "kxqzvwjhgq"}
	words  = []string{"zqxjkvwpyf", "wvxqzkjphb", "kxqzvwjhgq", "492907182836"}
)

// canaryWord is what hostile servers send.
const canaryWord = "zqxjkvwpyf"

const (
	letters = 5 // that long a part of a word is a leak
	digits  = 8
)

// needles are forms that are looked for in the bytes; parts in the letters and digits alone.
var needles, parts = makeNeedles()

func makeNeedles() (raw [][]byte, part []string) {
	add := func(b ...[]byte) { raw = append(raw, b...) }
	for _, w := range words {
		for _, v := range []string{w, strings.ToUpper(w), reversed(w)} {
			h := hex.EncodeToString([]byte(v))
			add([]byte(h), []byte(strings.ToUpper(h)))
			for shift := range 3 { // what of it does not depend on its neighbours
				enc := base64.StdEncoding.EncodeToString(append(make([]byte, shift), v...))
				add([]byte(enc[4 : len(enc)-4]))
			}
			var wide []byte
			for _, r := range v {
				wide = append(wide, byte(r), 0)
			}
			add(wide)
		}
		n := letters
		if w[0] <= '9' {
			n = digits
		}
		for _, v := range []string{w, reversed(w)} {
			for i := 0; i+n <= len(v); i++ {
				part = append(part, v[i:i+n])
			}
		}
	}
	for _, v := range values {
		m, s1, s2, s5 := md5.Sum([]byte(v)), sha1.Sum([]byte(v)), sha256.Sum256([]byte(v)), sha512.Sum512([]byte(v)) //nolint:gosec // as above
		for _, sum := range [][]byte{m[:], s1[:], s2[:], s5[:]} {
			add(sum, []byte(hex.EncodeToString(sum)), []byte(base64.StdEncoding.EncodeToString(sum)))
		}
	}
	const card = 4929071828364455
	add(binary.BigEndian.AppendUint64(nil, card)[2:], []byte(strconv.FormatInt(card, 16)), []byte{0x13, 0x41, 0x02, 0xce, 0x0b, 0x14}) // int8, hex, numeric
	return raw, part
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// leaks finds a masked value in what a client was sent, in whatever form: itself, in capitals, backwards, in hex, base64, UTF-16, hashed, in parts over columns and
// rows, as numbers of its characters.
func leaks(t *transcript) string {
	all := t.raw
	for _, n := range needles {
		if bytes.Contains(all, n) {
			return "a masked value, in another form"
		}
	}
	for _, text := range append(t.columns(), plain(all), plain(t.bodies())) {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return "a masked value, at least in part: " + p
			}
		}
	}
	return ""
}

// plain is the letters and digits of it, in lower case.
func plain(b []byte) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			out = append(out, c+'a'-'A')
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			out = append(out, c)
		}
	}
	return string(out)
}
