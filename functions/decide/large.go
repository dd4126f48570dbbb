package decide

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/approval"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/session"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// uploadLife is how long an upload may take: a permit does not live longer.
const uploadLife = 2 * api.PermitLife

// maxLarge is how many Asks with uploaded commands are decided at a time: each takes its commands' size several times over, and one call may
// name as many as it names sessions.
const maxLarge = 2

// large waits until there is room for an Ask's uploaded commands; leave gives it back.
func (d *decider) large(ctx context.Context, a *api.Ask) (leave func(), err error) {
	if a.Uploaded == nil {
		return func() {}, nil
	}
	select {
	case d.uploads <- struct{}{}:
		return func() {
			a.Commands = nil
			<-d.uploads
		}, nil
	case <-ctx.Done():
		return nil, d.noDecision(ctx, "the uploads", ctx.Err())
	}
}

// uploadName is where the commands of an Ask are put. What is put is not evidence: it is read once, and expires.
func uploadName(s access.SessionID, first access.CommandID) string {
	return "uploads/" + string(s) + "/" + string(first)
}

// upload hands out the right to put an Ask's commands beside the call that asks about them.
func (d *decider) upload(ctx context.Context, agent token.Agent, req *api.UploadRequest) (api.UploadResponse, error) {
	if _, err := d.state(agent, req.Session, req.State); err != nil {
		return api.UploadResponse{}, err
	}
	up := req.Uploaded
	if err := checkUploaded(up, d.now()); err != nil {
		return api.UploadResponse{}, err
	}
	grant, err := d.Uploads.Grant(ctx, uploadName(req.Session, up.First), up.Bytes, [32]byte(up.SHA256), uploadLife)
	if err != nil {
		return api.UploadResponse{}, d.noDecision(ctx, "the uploads", err)
	}
	return api.UploadResponse{URL: grant.URL, Header: grant.Header}, nil
}

func checkUploaded(up api.Uploaded, now time.Time) error {
	if err := session.Fresh(string(up.First), now); err != nil {
		return api.Because(api.ErrBadRequest, "set the clock of the agent's machine", "command %v", err).By(api.RuleClock)
	}
	if len(up.SHA256) != sha256.Size || up.Bytes < 1 {
		return api.Because(api.ErrBadRequest, "", "an upload has a size and a SHA-256")
	}
	if up.Bytes > api.MaxUpload {
		return api.Because(api.ErrTooLarge, "send it in parts", "the command has %d bytes with its parameters, more than %d", up.Bytes, api.MaxUpload).By(api.RuleTooLarge)
	}
	return nil
}

// fetch fills in the commands that were put beside the call.
func (d *decider) fetch(ctx context.Context, a *api.Ask, now time.Time) error {
	up := a.Uploaded
	if up == nil {
		return nil
	}
	if err := checkUploaded(*up, now); err != nil {
		return err
	}
	b, err := d.Uploads.Open(ctx, uploadName(a.Session, up.First))
	if errors.Is(err, store.ErrNotFound) {
		return api.Because(api.ErrBadRequest, "upload them first", "the commands of session %s are not there", a.Session)
	}
	if err != nil {
		return d.noDecision(ctx, "the uploads", err)
	}
	if sum := sha256.Sum256(b); int64(len(b)) != up.Bytes || !bytes.Equal(sum[:], up.SHA256) {
		return api.Because(api.ErrBadRequest, "upload them again, under another id", "the commands that were uploaded are others than those that are asked about")
	}
	if err := api.Bounded(b); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a.Commands); err != nil {
		return api.Because(api.ErrBadRequest, "", "uploaded commands: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) || len(a.Commands) == 0 || len(a.Commands) > api.MaxBatch || a.Commands[0].ID != up.First {
		return api.Because(api.ErrBadRequest, "", "uploaded commands: want 1 to %d of them, and nothing else", api.MaxBatch)
	}
	return nil
}

// addLarge appends the entry of a command that does not fit one of its own. Where it was allowed, its exact body is stored beside the log,
// before the entry that points to it. What must be reviewed by a person, or is denied anyhow, is denied and kept as its digest.
func (p *plan) addLarge(ctx context.Context, cmd *access.Command, e audit.Entry, dec access.Decision, size int) error {
	if dec.Outcome == access.Allow {
		kept, blob, err := audit.LargeCommandOf(*cmd, dec.Digest, p.state.DataKey)
		if err != nil {
			return fmt.Errorf("decide: %w", err)
		}
		e.Command, e.Decision = kept, &dec
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("decide: encode entry: %w", err)
		}
		if size = len(b) + 2; size <= store.MaxItem {
			err := p.Evidence.Create(ctx, audit.BodyName(cmd.Session, cmd.ID), blob)
			switch {
			case errors.Is(err, store.ErrConflict):
				return p.end(ctx, p.seat, fmt.Sprintf("sequence %d was seen twice", cmd.Seq))
			case err != nil:
				return p.noDecision(ctx, "the evidence", err)
			}
			p.bytes += size
			p.entries, p.decisions = append(p.entries, e), append(p.decisions, dec)
			return nil
		}
	}
	hint := fmt.Sprintf("send less in one command: its entry would have %d bytes, more than %d", size, store.MaxItem)
	switch dec.Outcome {
	case access.Hold:
		hint = fmt.Sprintf("it would be held for a reviewer, and has more than the %d bytes that a person is shown: send it in parts", store.MaxItem)
		fallthrough
	case access.Allow:
		dec = access.Decision{Command: cmd.ID, Seq: cmd.Seq, Digest: dec.Digest, Rule: api.RuleTooLarge, Hint: hint}
	}
	e.Decision = &dec
	e.Command = &audit.Command{Verb: cmd.Verb, Digest: dec.Digest, State: audit.OpenState(cmd.State),
		Why: fmt.Sprintf("the command's entry would have %d bytes: only its digest is kept", size)}
	p.held = nil
	p.entries, p.decisions = append(p.entries, e), append(p.decisions, dec)
	return nil
}

// reviewable says whether a held command's record fits what a reviewer is shown.
func reviewable(r *approval.Record) bool {
	if r == nil {
		return true
	}
	_, err := approval.Put(*r, store.Cond{})
	return err == nil
}
