package approval

import (
	"crypto/subtle"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/api"
)

const (
	// FreshLogin is how old a reviewer's login may be when the verdict arrives: time to read one statement with care.
	FreshLogin = 5 * time.Minute
	// ClockSkew is how far the identity provider's clock may be from ours.
	ClockSkew = 2 * time.Second
	// MaxReason bounds a reviewer's words, in bytes.
	MaxReason = 500
)

// StatusAt is the status with time taken into account: what waited or was approved past its expiry is expired.
func (r Record) StatusAt(now time.Time) Status {
	if (r.Status == Pending || r.Status == Approved) && !now.Before(r.Expires) {
		return Expired
	}
	return r.Status
}

// MayReview says why v may not answer, as an *api.Error, or nil. It does not look at the login's age, so that a page can be shown
// before the fresh login: Approve and Deny do.
func (r Record) MayReview(v Reviewer, now time.Time) error {
	switch {
	case v.Subject == "":
		return api.Because(api.ErrLogin, "sign in", "nobody is signed in")
	case v.Subject == r.Lineage.Principal:
		return api.Because(api.ErrDenied, "ask another member of the reviewing groups", "nobody reviews a command of their own")
	case !slices.ContainsFunc(r.Reviewers, func(g string) bool { return slices.Contains(v.Groups, g) }):
		return api.Because(api.ErrDenied, "ask a member of the reviewing groups", "%s is in none of the groups that review %s", v.Subject, r.Hold)
	}
	return r.still(Pending, now)
}

// still checks that the record is where a transition starts from.
func (r Record) still(from Status, now time.Time) error {
	switch at := r.StatusAt(now); at {
	case from:
		return nil
	case Expired:
		return api.Because(api.ErrConflict, "send the command again to ask anew", "approval %s has expired", r.ID)
	case Pending:
		return api.Because(api.ErrConflict, "wait for a reviewer", "approval %s has not been answered", r.ID)
	default:
		return api.Because(api.ErrConflict, "send the command again to ask anew", "approval %s was %s already", r.ID, at)
	}
}

func (r Record) answer(v Reviewer, reason string, to Status, now time.Time) (Record, error) {
	if err := r.MayReview(v, now); err != nil {
		return r, err
	}
	if v.AuthTime.Before(r.Created.Add(-ClockSkew)) || now.Sub(v.AuthTime) > FreshLogin || v.AuthTime.After(now.Add(ClockSkew)) {
		return r, api.Because(api.ErrLogin, "sign in again for this approval", "the login is not a fresh one made for this approval")
	}
	if len(reason) > MaxReason {
		return r, api.Because(api.ErrTooLarge, "say it shorter", "the reason is over %d bytes", MaxReason)
	}
	r.ByGroups = nil
	for _, g := range r.Reviewers {
		if slices.Contains(v.Groups, g) {
			r.ByGroups = append(r.ByGroups, g)
		}
	}
	r.Status, r.By, r.Reason, r.AuthTime, r.DecidedAt = to, v.Subject, reason, v.AuthTime.UTC(), now.UTC()
	return r, nil
}

// Approve records a reviewer's yes. It is good for one claim, of the same digest, until Expires.
func (r Record) Approve(v Reviewer, reason string, now time.Time) (Record, error) {
	return r.answer(v, reason, Approved, now)
}

// StillReviewed says whether who answered is in one of the groups that review the hold now: policy may have changed since.
func (r Record) StillReviewed(groups []string) bool {
	return slices.ContainsFunc(r.ByGroups, func(g string) bool { return slices.Contains(groups, g) })
}

// Deny records a reviewer's no.
func (r Record) Deny(v Reviewer, reason string, now time.Time) (Record, error) {
	return r.answer(v, reason, Denied, now)
}

// Withdraw ends a record whose client gave up, answered or not.
func (r Record) Withdraw(reason string, now time.Time) (Record, error) {
	if r.StatusAt(now) != Approved {
		if err := r.still(Pending, now); err != nil {
			return r, err
		}
	}
	if len(reason) > MaxReason {
		return r, api.Because(api.ErrTooLarge, "say it shorter", "the reason is over %d bytes", MaxReason)
	}
	r.Status, r.UsedAt = Withdrawn, now.UTC()
	if r.Reason == "" {
		r.Reason = reason
	}
	return r, nil
}

// Claim uses the approval for the command with this digest. The caller stores the result under the version it read, so that of
// many claims one wins.
func (r Record) Claim(digest string, now time.Time) (Record, error) {
	if digest == "" || subtle.ConstantTimeCompare([]byte(digest), []byte(r.Digest)) != 1 {
		return r, api.Because(api.ErrDenied, "send the exact command that was approved", "approval %s is for another command", r.ID)
	}
	if err := r.still(Approved, now); err != nil {
		return r, err
	}
	r.Status, r.UsedAt = Claimed, now.UTC()
	return r, nil
}
