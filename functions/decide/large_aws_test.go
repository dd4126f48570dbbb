//go:build aws

package decide_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/functions/seal"
	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/s3"
	"github.com/sallyport/sallyport/localstack/localaws"
)

// The same statement of 10 MB with S3 in place of directories: presigned, decided, kept beside the log, verified out of the bucket.
func TestALargeCommandOnS3(t *testing.T) {
	aws, err := localaws.MiniStack(t.Context())
	brokertest.Must(t, err)
	t.Cleanup(aws.Close)
	name, err := localaws.Bucket(t.Context(), aws.URL)
	brokertest.Must(t, err)
	bucket, err := s3.New(s3.Config{AWS: localaws.Config(aws.URL), Bucket: name, PathStyle: true})
	brokertest.Must(t, err)
	w := newWorld(t)
	w.evidence, w.granter = bucket, bucket
	w.handler = w.newHandler(w.Items)
	agent := w.listen(t)
	s := w.Seed(w.agent, w.alice, "app")
	c := s.Command(0, access.Write, "public.orders", large(10_000_000))
	for range 2 {
		resp, err := agent.Check(t.Context(), api.CheckRequest{Agent: w.agent.Name, Asks: []api.Ask{s.Ask(c)}})
		brokertest.Must(t, err)
		if a := resp.Answers[0]; outcomes(a) != "allow" {
			t.Fatalf("%+v", a)
		}
	}
	blob, err := bucket.Open(t.Context(), audit.BodyName(c.Session, c.ID))
	brokertest.Must(t, err)
	if body, err := audit.OpenLarge(c.ID, s.State.DataKey, blob); err != nil || body.Text != c.Text {
		t.Errorf("%d bytes, %v", len(body.Text), err)
	}
	signer := brokertest.NewSigner(t)
	sealer, err := seal.New(seal.Config{Items: w.DB, Feed: w.DB, Blobs: bucket, Heads: bucket, Signer: signer, Origin: "sallyport.test/audit", Now: w.Now})
	brokertest.Must(t, err)
	_, err = sealer.Seal(t.Context())
	brokertest.Must(t, err)
	key, err := audit.VerifierKey("sallyport.test/audit", signer.Public())
	brokertest.Must(t, err)
	r, err := audit.Verify(t.Context(), audit.VerifyConfig{Blobs: bucket, Heads: bucket, Key: key})
	brokertest.Must(t, err)
	if r.Bodies != 1 || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].What, "no opening") { // the world's sessions have none
		t.Errorf("%+v", r)
	}
}
