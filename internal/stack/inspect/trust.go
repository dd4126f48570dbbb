package inspect

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/secrets"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/token"
)

// discovery asks the broker where everything is, and holds its answer to the stack.
func (i *inspection) discovery(ctx context.Context) {
	url := i.URL
	if url == "" {
		url = i.out["Broker"]
	}
	const unreachable = "read the log of the function token (docs/runbooks/alarms.md); where something stands before the functions (PublicHost), look there; a broker with a CA of its own is named by --url or SALLYPORT_URL with its pin"
	p, err := broker.NewPublic(url)
	if err != nil {
		i.add("discovery", Fail, unreachable, "%v", err)
		return
	}
	if i.told, err = p.Discovery(ctx); err != nil { // all else that strangers can see is found by it
		i.add("discovery", Fail, unreachable, "%s: %v; clock, functions and relays were not looked at", url, err)
		p.CloseIdle()
		return
	}
	i.public = p
	var wrong []string
	same := func(what, told, want string) {
		if want != "" && strings.TrimSuffix(told, "/") != strings.TrimSuffix(want, "/") {
			wrong = append(wrong, fmt.Sprintf("%s is %q, the stack says %q", what, told, want))
		}
	}
	same("issuer", i.told.Issuer, i.out["Issuer"])
	same("console", i.told.Console, i.out["Console"])
	same("identity provider", i.told.OIDC, i.Deployment.Parameters["OidcIssuer"])
	same("client id", i.told.ClientID, i.Deployment.Parameters["OidcClientId"])
	if len(wrong) > 0 {
		i.add("discovery", Fail, "something else answers at this URL, or the functions' environment was changed by hand: deploy again", "%s", strings.Join(wrong, "; "))
	} else {
		i.add("discovery", OK, "", "%s", p.Base())
	}
	i.authority(ctx)
	i.jwks(ctx)
}

// warnCA is how long before the CA's end somebody should look: every agent and relay must learn another.
const warnCA = 90 * 24 * time.Hour

// authority reads the CA's certificate that discovery gives out.
func (i *inspection) authority(ctx context.Context) {
	const next = "run `sallyport stack init`; if it was run, the registry holds another CA than the key: restore it (docs/how-to/restore.md)"
	block, _ := pem.Decode([]byte(i.told.CA))
	if block == nil {
		i.add("CA", Fail, next, "discovery has no certificate")
		return
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		i.add("CA", Fail, next, "%v", err)
		return
	}
	i.ca = cert
	if err := i.made(ctx); err != nil {
		i.add("CA", Fail, next, "functions that are up know it, those that start will not: %v", err)
		return
	}
	switch left := cert.NotAfter.Sub(i.Now()); {
	case left <= 0:
		i.add("CA", Fail, "rotate it: docs/how-to/rotate-keys.md", "its certificate ended on %s", cert.NotAfter.Format(time.DateOnly))
	case left < warnCA:
		i.add("CA", Warn, "rotate it: docs/how-to/rotate-keys.md", "its certificate ends on %s", cert.NotAfter.Format(time.DateOnly))
	default:
		i.add("CA", OK, "", "good until %s", cert.NotAfter.Format(time.DateOnly))
	}
}

// made says whether what `sallyport stack init` makes is in the registry, whatever functions remember of it.
func (i *inspection) made(ctx context.Context) error {
	if err := i.stack.Err(); err != nil {
		return err
	}
	kept, err := token.ReadCA(ctx, i.stack.Items())
	if err != nil {
		return err
	}
	if !kept.Equal(i.ca) {
		return errors.New("the registry holds another certificate")
	}
	_, err = i.stack.Items().Get(ctx, store.Registry, secrets.Key("state"), true)
	return err
}

func (i *inspection) jwks(ctx context.Context) {
	var err error
	i.signers, err = i.public.Keys(ctx)
	if err == nil && len(i.signers) == 0 {
		err = errors.New("there is no key in it")
	}
	i.verdict("JWKS", err, "read the log of the function token (docs/runbooks/alarms.md)", "%d key", len(i.signers))
}

// keys looks at the KMS keys, and whether what the functions show was made with them.
func (i *inspection) keys(ctx context.Context) {
	client := kms.NewFromConfig(i.config("KMS"))
	for _, k := range []struct {
		output string
		spec   types.KeySpec
		shown  func() (*ecdsa.PublicKey, bool) // what must be its public half; false where nothing shows it
	}{
		{"TokenKey", types.KeySpecEccNistP256, func() (*ecdsa.PublicKey, bool) {
			if len(i.signers) == 0 {
				return nil, false
			}
			return i.signers[0], true
		}},
		{"CaKey", types.KeySpecEccNistP256, func() (*ecdsa.PublicKey, bool) {
			if i.ca == nil {
				return nil, false
			}
			k, ok := i.ca.PublicKey.(*ecdsa.PublicKey)
			return k, ok
		}},
		{"CheckpointKey", types.KeySpecEccNistP256, nil},
		{"StateKey", types.KeySpecSymmetricDefault, nil},
	} {
		id := i.out[k.output]
		name := "key " + k.output
		out, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
		if err != nil {
			i.add(name, Fail, "check that your credentials may kms:DescribeKey; a key that is gone is in docs/how-to/rotate-keys.md", "%v", err)
			continue
		}
		m := out.KeyMetadata
		switch {
		case m.KeyState == types.KeyStatePendingDeletion:
			i.add(name, Fail, "`aws kms cancel-key-deletion --key-id "+id+"`, then `aws kms enable-key`, at once: what it signed or sealed is lost with it", "it is going to be DELETED")
			continue
		case m.KeyState != types.KeyStateEnabled:
			i.add(name, Fail, "`aws kms enable-key --key-id "+id+"`; never make another in its place", "it is %s", m.KeyState)
			continue
		case m.KeySpec != k.spec:
			i.add(name, Fail, "deploy infra/template.yaml as it is", "it is a %s, want %s", m.KeySpec, k.spec)
			continue
		}
		if k.shown == nil {
			i.add(name, OK, "", "enabled")
			continue
		}
		i.verdict(name, i.halves(ctx, k.output, k.shown), "the functions run with another key than the stack's: deploy again, and see docs/how-to/rotate-keys.md", "enabled, and the one in use")
	}
}

// halves holds what the broker shows to the key in KMS.
func (i *inspection) halves(ctx context.Context, output string, shown func() (*ecdsa.PublicKey, bool)) error {
	pub, ok := shown()
	if !ok {
		return nil // that it shows nothing was told before
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return err
	}
	id := i.out[output]
	out, err := kms.NewFromConfig(i.config("KMS")).GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		return err
	}
	if string(out.PublicKey) != string(der) {
		return errors.New("the broker shows another public key than KMS has")
	}
	return nil
}
