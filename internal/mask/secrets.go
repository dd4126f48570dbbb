package mask

import (
	"bytes"
	"encoding/base64"
)

// shape is how a kind of secret looks.
type shape struct {
	prefix string
	chars  *charset // what follows the prefix
	least  int      // of them
	most   int      // 0: as many as there are
	// look judges what is not a prefix and a run of characters. i is where the prefix begins, body where it ends.
	look func(b []byte, i, body int, final bool) match
}

var (
	alnums   = setOf("A-Za-z0-9")
	upper    = setOf("A-Z0-9")
	hexes    = setOf("a-f0-9A-F")
	wordy    = setOf("A-Za-z0-9_")
	urlSafe  = setOf("A-Za-z0-9_-")
	dotted   = setOf("A-Za-z0-9_.-")
	token68  = setOf("A-Za-z0-9._~+/=-") // RFC 9110, section 11.2
	base64s  = setOf("A-Za-z0-9+/=")
	keyLines = setOf("A-Za-z0-9+/=:, \t\r\n\\-")
)

// shapes are the secrets that are known, each by what its issuer says that it begins with.
var shapes = []shape{
	{prefix: "AKIA", chars: upper, least: 16, most: 16}, // AWS: access keys
	{prefix: "ASIA", chars: upper, least: 16, most: 16},
	{prefix: "ABIA", chars: upper, least: 16, most: 16},
	{prefix: "ACCA", chars: upper, least: 16, most: 16},
	{prefix: "aws_secret_access_key", look: assigned},
	{prefix: "AWS_SECRET_ACCESS_KEY", look: assigned},
	{prefix: "SecretAccessKey", look: assigned},
	{prefix: "secretAccessKey", look: assigned},
	{prefix: "aws_session_token", look: assigned},
	{prefix: "AWS_SESSION_TOKEN", look: assigned},
	{prefix: "SessionToken", look: assigned},
	{prefix: "ghp_", chars: alnums, least: 36}, // GitHub
	{prefix: "gho_", chars: alnums, least: 36},
	{prefix: "ghu_", chars: alnums, least: 36},
	{prefix: "ghs_", chars: alnums, least: 36},
	{prefix: "ghr_", chars: alnums, least: 36},
	{prefix: "github_pat_", chars: wordy, least: 36},
	{prefix: "glpat-", chars: dotted, least: 20}, // GitLab
	{prefix: "gldt-", chars: urlSafe, least: 20},
	{prefix: "glrt-", chars: dotted, least: 20},
	{prefix: "glsa_", chars: wordy, least: 32},   // Grafana
	{prefix: "xoxb-", chars: urlSafe, least: 20}, // Slack
	{prefix: "xoxp-", chars: urlSafe, least: 20},
	{prefix: "xoxa-", chars: urlSafe, least: 20},
	{prefix: "xoxs-", chars: urlSafe, least: 20},
	{prefix: "xoxr-", chars: urlSafe, least: 20},
	{prefix: "xapp-", chars: urlSafe, least: 20},
	{prefix: "sk_live_", chars: alnums, least: 16}, // Stripe
	{prefix: "sk_test_", chars: alnums, least: 16},
	{prefix: "rk_live_", chars: alnums, least: 16},
	{prefix: "rk_test_", chars: alnums, least: 16},
	{prefix: "whsec_", chars: base64s, least: 24},
	{prefix: "sk-proj-", chars: urlSafe, least: 32}, // model providers
	{prefix: "sk-ant-", chars: urlSafe, least: 32},
	{prefix: "sk-", chars: alnums, least: 40},
	{prefix: "hf_", chars: alnums, least: 30},
	{prefix: "AIza", chars: urlSafe, least: 35, most: 35}, // Google
	{prefix: "ya29.", chars: dotted, least: 30},
	{prefix: "SG.", chars: dotted, least: 60}, // SendGrid
	{prefix: "npm_", chars: alnums, least: 36},
	{prefix: "pypi-", chars: urlSafe, least: 60},
	{prefix: "dckr_pat_", chars: urlSafe, least: 24}, // Docker
	{prefix: "dop_v1_", chars: hexes, least: 64},     // DigitalOcean
	{prefix: "shpat_", chars: hexes, least: 32},      // Shopify
	{prefix: "shpss_", chars: hexes, least: 32},
	{prefix: "hvs.", chars: dotted, least: 24}, // Vault
	{prefix: "AGE-SECRET-KEY-1", chars: upper, least: 58},
	{prefix: "eyJ", look: jwt},
	{prefix: "BEGIN ", look: privateKey},
	{prefix: "Bearer ", look: bearer},
	{prefix: "bearer ", look: bearer},
	{prefix: "BEARER ", look: bearer},
	{prefix: "Basic ", look: basic},
	{prefix: "basic ", look: basic},
	{prefix: "https://", look: password},
	{prefix: "http://", look: password},
	{prefix: "postgres://", look: password},
	{prefix: "postgresql://", look: password},
	{prefix: "mysql://", look: password},
	{prefix: "mariadb://", look: password},
	{prefix: "redis://", look: password},
	{prefix: "rediss://", look: password},
	{prefix: "mongodb://", look: password},
	{prefix: "mongodb+srv://", look: password},
	{prefix: "amqp://", look: password},
	{prefix: "amqps://", look: password},
	{prefix: "ftp://", look: password},
	{prefix: "ssh://", look: password},
}

// shapesBy finds the shapes by the first byte.
var shapesBy = func() (by [256][]*shape) {
	for i := range shapes {
		first := shapes[i].prefix[0]
		by[first] = append(by[first], &shapes[i])
	}
	return by
}()

// secret looks at the word at i.
func (f *Finder) secret(b []byte, i int, final bool) match {
	wait := match{}
	for _, s := range shapesBy[b[i]] {
		n := len(s.prefix)
		if rest := b[i:]; len(rest) < n {
			if !final && s.prefix[:len(rest)] == string(rest) && wait.v == no {
				wait = match{v: more, at: i}
			}
			continue
		} else if string(rest[:n]) != s.prefix {
			continue
		}
		m := s.judge(b, i, i+n, final)
		if m.class = f.use[secrets]; m.v == more {
			m.at = i
		}
		if m.v != no {
			return m
		}
	}
	return wait
}

func (s *shape) judge(b []byte, i, body int, final bool) match {
	if s.look != nil {
		return s.look(b, i, body, final)
	}
	m := token(b, i, body, s.chars, s.least, final)
	if m.v == yes && s.most > 0 && (m.open != nil || m.end-body > s.most || m.end < len(b) && wordByte(b[m.end])) {
		return match{}
	}
	return m
}

// token is at least so many characters of a set; the value begins at at. What is too long to be shown to a masker stays open.
func token(b []byte, at, body int, chars *charset, least int, final bool) match {
	end := body
	for end < len(b) && end-at < maxValue && chars[b[end]] {
		end++
	}
	m := match{v: yes, at: at, end: end}
	switch {
	case end-at == maxValue:
		m.open = chars
	case end == len(b) && !final:
		return match{v: more, at: at, likely: true}
	case end-body < least:
		return match{}
	}
	return m
}

// jwt is a JSON Web Token: the base64 of {" and at least one more part (RFC 7515, section 7.1; RFC 7516 for encrypted ones).
func jwt(b []byte, i, body int, final bool) match {
	dot := body
	for dot < len(b) && dot-i < maxToken && urlSafe[b[dot]] {
		dot++
	}
	switch {
	case dot == len(b) && !final && dot-i < maxToken:
		return match{v: more, at: i, likely: dot-i > 15}
	case dot-body < 12 || dot == len(b) || b[dot] != '.':
		return match{}
	}
	end := dot + 1
	for end < len(b) && end-dot < maxValue && dotted[b[end]] {
		end++
	}
	switch {
	case end-dot == maxValue:
		return match{v: yes, at: i, end: end, open: dotted}
	case end == len(b) && !final:
		return match{v: more, at: i, likely: true}
	case end-dot < 10:
		return match{}
	}
	m := match{v: yes, at: i, end: end}
	if end-i > maxValue {
		m.open = dotted
	}
	return m
}

// privateKey is what the lines of RFC 7468 enclose, and OpenSSH's and PGP's: at is behind the first line.
func privateKey(b []byte, i, body int, final bool) match {
	if i < len(dashes) || string(b[i-len(dashes):i]) != dashes {
		return match{}
	}
	const longest = 48
	end := body
	for end < len(b) && end-body < longest && (b[end] == ' ' || upper[b[end]]) {
		end++
	}
	line := b[end:min(len(b), end+len(dashes))]
	switch name := b[body:end]; {
	case string(line) == dashes && (bytes.HasSuffix(name, []byte("PRIVATE KEY")) || bytes.HasSuffix(name, []byte("PRIVATE KEY BLOCK"))):
		at := end + len(dashes)
		return match{v: yes, at: at, end: at, open: keyLines, key: true}
	case end-body < longest && string(line) == dashes[:len(line)] && len(line) < len(dashes) && !final:
		return match{v: more, likely: true}
	}
	return match{}
}

const dashes = "-----"

// bearer is what follows the word in an Authorization header (RFC 6750): what has no digit is a word of a sentence.
func bearer(b []byte, _, body int, final bool) match {
	m := token(b, body, body, token68, 16, final)
	if m.v == yes && m.open == nil && !bytes.ContainsAny(b[body:m.end], "0123456789") {
		return match{}
	}
	m.likely = m.likely && len(b)-body > 8
	return m
}

// basic is a name and a password in base64 (RFC 7617).
func basic(b []byte, _, body int, final bool) match {
	m := token(b, body, body, base64s, 8, final)
	if m.v == yes && m.open == nil {
		text, err := base64.StdEncoding.DecodeString(string(b[body:m.end]))
		if err != nil || !bytes.ContainsRune(text, ':') {
			return match{}
		}
	}
	m.likely = m.likely && len(b)-body > 12
	return m
}

// password is what a URL carries between the first colon and the @ (RFC 3986, section 3.2.1).
func password(b []byte, _, body int, final bool) match {
	colon := 0
	i := body
	for ; i < len(b) && i-body < maxValue; i++ {
		switch c := b[i]; {
		case c == ':' && colon == 0:
			colon = i + 1
		case c == '@' && colon > 0 && colon < i:
			return match{v: yes, at: colon, end: i}
		case c <= ' ', c == '@', c == '/', c == '?', c == '#', c == '"', c == '\'', c == '<', c == '>', c >= 0x7f:
			return match{}
		}
	}
	if i == len(b) && !final && i-body < maxValue {
		return match{v: more, likely: colon > 0}
	}
	return match{}
}

// assigned is the value that follows the name of one of AWS's secrets: 40 characters, or many more of a session's token.
func assigned(b []byte, _, body int, final bool) match {
	i := body
	for ; i < len(b) && i-body < 8; i++ {
		if c := b[i]; c != '"' && c != '\'' && c != ' ' && c != ':' && c != '=' && c != '\\' && c != '>' {
			break
		}
	}
	if i == len(b) && !final && i-body < 8 {
		return match{v: more}
	}
	if i == body {
		return match{}
	}
	return token(b, i, i, base64s, 40, final)
}
