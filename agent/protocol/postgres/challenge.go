package postgres

import (
	"encoding/binary"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/internal/access"
)

// Iterations that a target may ask a proof for. Fewer than RFC 7677 (section 4) has servers ask for make a proof that is cheap to try
// passwords against; more than a million, well above what anybody recommends for PBKDF2 today, keep a processor busy for a stranger.
const (
	leastIterations = 4096
	mostIterations  = 1_000_000
)

// maxLogin is how much a target may say in a login: pgconn keeps each setting that is reported. PostgreSQL says about 1 kB.
const maxLogin = 1 << 20

// What a target may ask for, by the code of its Authentication message (PostgreSQL manual, "Message Formats").
var challengeNames = map[uint32]string{2: "kerberos", 3: "password", 5: "md5", 7: "gss", 9: "sspi", authSASL: "scram-sha-256"}

// challenges reads along what a target says in a login, on its way to pgconn, and ends the login before an answer is made to what the
// settings do not permit. It holds no byte back, so that nothing is lost when the room takes the connection over.
type challenges struct {
	r       io.Reader
	target  access.TargetName
	allowed []string // as libpq's require_auth names them
	bound   bool     // channel binding is required

	head  [header]byte
	have  int
	rest  int
	body  []byte // of an Authentication message
	said  int
	asked bool
	over  bool
	err   error
}

func (c *challenges) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(b)
	if c.said += n; c.said > maxLogin && !c.over {
		c.err = c.refuse("it said more than %d bytes", maxLogin)
		return 0, c.err
	}
	if c.err = c.follow(b[:n]); c.err != nil {
		return 0, c.err
	}
	return n, err
}

// follow cuts what came into messages and looks at each that belongs to the login.
func (c *challenges) follow(b []byte) error {
	for len(b) > 0 && !c.over {
		if c.have < header {
			n := copy(c.head[c.have:], b)
			c.have, b = c.have+n, b[n:]
			if c.have < header {
				return nil
			}
			size := binary.BigEndian.Uint32(c.head[1:])
			if size < lengthWord || c.head[0] == 'R' && size > maxAuth {
				return c.refuse("it sent a message of %d bytes", size)
			}
			c.rest = int(size) - lengthWord
		}
		n := min(c.rest, len(b))
		if c.head[0] == 'R' {
			c.body = append(c.body, b[:n]...)
		}
		if c.rest, b = c.rest-n, b[n:]; c.rest > 0 {
			return nil
		}
		body := c.body
		c.have, c.body = 0, nil
		switch c.head[0] {
		case 'R':
			if err := c.challenge(body); err != nil {
				return err
			}
		case 'Z':
			c.over = true
		}
	}
	return nil
}

// challenge looks at one Authentication message.
func (c *challenges) challenge(body []byte) error {
	cur := cursor{b: body}
	code := cur.uint32()
	if cur.bad {
		return c.refuse("it sent a malformed request")
	}
	switch code {
	case authOK:
		if !c.asked && (c.bound || !slices.Contains(c.allowed, "none")) {
			return c.refuse("it asked for no proof, and gave none of itself")
		}
		return nil
	case authContinue:
		return c.proof(string(cur.b))
	case authFinal:
		return nil // pgconn checks the signature, and that it comes in its place
	}
	name := orDefault(challengeNames[code], "an unknown method")
	switch {
	case c.asked:
		return c.refuse("it asked for the credential twice")
	case !slices.Contains(c.allowed, name):
		return c.refuse("it asked for the credential by %s, which the agent's configuration does not permit", name)
	case code == authSASL && !slices.Contains(strings.Split(string(cur.b), "\x00"), mechanism):
		return c.refuse("it does not offer %s", mechanism)
	case c.bound && (code != authSASL || !slices.Contains(strings.Split(string(cur.b), "\x00"), mechanismPlus)):
		return c.refuse("it does not offer the channel binding that the agent's configuration requires")
	}
	c.asked = true
	return nil
}

// proof looks at what the target wants the proof made of: "r=…,s=…,i=…". That the nonce extends the room's is for pgconn to see, which made it.
func (c *challenges) proof(first string) error {
	parts := strings.Split(first, ",")
	if len(parts) != 3 || !strings.HasPrefix(parts[2], "i=") {
		return c.refuse("it sent a malformed request")
	}
	n, err := strconv.Atoi(parts[2][len("i="):])
	if err != nil || n < leastIterations || n > mostIterations {
		return c.refuse("it asked for a proof of %.20s iterations: between %d and %d are given", parts[2][len("i="):], leastIterations, mostIterations)
	}
	return nil
}

func (c *challenges) refuse(format string, args ...any) error {
	return refuseTarget(stateNoAuth, c.target, format, args...)
}

// refuseTarget is what a client may know of a target that the agent did not log in to: a reason in the room's own words.
func refuseTarget(code string, target access.TargetName, format string, args ...any) *startError {
	e := refuseStart(code, "the agent's log has the reason; who runs the agent can say what its configuration demands of the target", format, args...)
	e.reply.message = "the gate could not log in to target " + strconv.Quote(string(target)) + ": " + e.reply.message
	return e
}
