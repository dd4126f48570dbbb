package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/dir"
	"github.com/sallyport/sallyport/internal/policy"
	deployment "github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/stack/inspect"
	"github.com/sallyport/sallyport/internal/token"
	"github.com/sallyport/sallyport/policies"
)

func stackCommand() *cobra.Command {
	c := &cobra.Command{Use: "stack", Short: "Operate a deployment on AWS, with an operator's own AWS credentials",
		Long: `These commands act on the tables, buckets and keys of a deployed stack. They take AWS credentials and region from the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION); with a profile, put them there first:

  eval "$(aws configure export-credentials --format env)"

--stack NAME asks CloudFormation for the stack's outputs; --outputs FILE reads them instead, as describe-stacks prints them.`}
	c.AddCommand(stackInitCommand(), stackPublishCommand(), stackRelayCommand(), stackEvidenceCommand())
	return c
}

// which says which stack is meant.
type which struct{ name, file string }

func (w *which) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.name, "stack", "", "name of the CloudFormation stack")
	c.Flags().StringVar(&w.file, "outputs", "", "file with the output of `aws cloudformation describe-stacks`, - for standard input")
}

// maxOutputs bounds what is read of a stack's description; CloudFormation's own limit of outputs is far below.
const maxOutputs = 1 << 20

// deployment reads what CloudFormation says of the stack.
func (w *which) deployment(cmd *cobra.Command) (inspect.Deployment, error) {
	if (w.name == "") == (w.file == "") {
		return inspect.Deployment{}, usage(cmd, "give either --stack or --outputs")
	}
	if w.file == "" {
		return inspect.Describe(cmd.Context(), os.Getenv, w.name)
	}
	in := cmd.InOrStdin()
	if w.file != "-" {
		f, err := os.Open(w.file)
		if err != nil {
			return inspect.Deployment{}, usage(cmd, "outputs of the stack: %v", err)
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxOutputs))
	if err != nil {
		return inspect.Deployment{}, fmt.Errorf("outputs of the stack: %w", err)
	}
	return inspect.Parse(raw)
}

// usable is a stack that this program can work with.
func (w *which) usable(cmd *cobra.Command) (inspect.Deployment, error) {
	d, err := w.deployment(cmd)
	if err != nil {
		return d, err
	}
	return d, d.Usable()
}

func (w *which) open(cmd *cobra.Command) (*deployment.Stack, map[string]string, error) {
	d, err := w.usable(cmd)
	if err != nil {
		return nil, nil, err
	}
	s := deployment.Open(deployment.FromOutputs(d.Outputs, os.Getenv))
	return s, d.Outputs, s.Err()
}

func stackInitCommand() *cobra.Command {
	var w which
	var from, pack string
	c := &cobra.Command{
		Use:   "init --stack NAME (--policy DIR | --pack PACK)",
		Short: "Make a new stack ready: its CA, its secret and its first policy",
		Long: `Make the certificate over the CA key, the secret that seals sessions, and publish a policy. Until this was done the functions refuse
everything. Doing it again changes nothing but the policy.`,
		Example: "  sallyport stack init --stack sallyport --policy ./policy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := bundleFrom(cmd, from, pack)
			if err != nil {
				return err
			}
			s, out, err := w.open(cmd)
			if err != nil {
				return err
			}
			if err := s.Init(cmd.Context()); err != nil {
				return err
			}
			if err := s.Publish(cmd.Context(), b); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the stack is ready; policy %s is active\n\nexport SALLYPORT_URL=%s\nconsole %s\n", b.Address, out["Broker"], out["Console"])
			return err
		},
	}
	w.flags(c)
	c.Flags().StringVar(&from, "policy", "", "policy directory")
	c.Flags().StringVar(&pack, "pack", "", "ready-made pack instead of a directory")
	return c
}

func stackPublishCommand() *cobra.Command {
	var w which
	c := &cobra.Command{
		Use:   "publish DIR --stack NAME",
		Short: "Make a policy directory the active policy",
		Long: `Publish a policy; it decides within a second. Publishing an older one is the way back. The directory is linted and its cases are run
first: one that fails is not published.`,
		Example: "  sallyport stack publish ./policy --stack sallyport",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := bundleFrom(cmd, args[0], "")
			if err != nil {
				return err
			}
			s, _, err := w.open(cmd)
			if err != nil {
				return err
			}
			if err := s.Publish(cmd.Context(), b); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "policy %s is active\n", b.Address)
			return err
		},
	}
	w.flags(c)
	return c
}

var errNoDirectory = errors.New("it is a file")

// bundleFrom loads a policy whose own cases hold.
func bundleFrom(cmd *cobra.Command, from, pack string) (*policy.Bundle, error) {
	if (from == "") == (pack == "") {
		return nil, usage(cmd, "give either --policy or --pack")
	}
	if info, err := os.Stat(from); pack == "" && (err != nil || !info.IsDir()) {
		return nil, api.Because(api.ErrBadRequest, "make one with `sallyport policy init DIR --pack guarded-postgres`", "%s is no policy directory: %v", from, cmp.Or(err, errNoDirectory))
	}
	files := os.DirFS(from)
	if pack != "" {
		var err error
		if files, err = policies.Pack(pack); err != nil {
			return nil, usage(cmd, "%v", err)
		}
	}
	b, err := policy.Load(files)
	if err != nil {
		return nil, err
	}
	for _, r := range b.Test() {
		if len(r.Failures) > 0 {
			return nil, api.Because(api.ErrBadRequest, "see `sallyport policy test`", "the policy's own case %q fails", r.Name)
		}
	}
	return b, nil
}

func stackRelayCommand() *cobra.Command {
	var w which
	var names, ips []string
	var broker bool
	c := &cobra.Command{
		Use:   "relay-certificate DIR --stack NAME --dns NAME…",
		Short: "Make a key and a certificate for a relay",
		Long: `Write key.pem, cert.pem and ca.pem into DIR, which is made: what sallyport-relay needs. The certificate is good for 30 days; a relay reads
new files without a restart.`,
		Example: "  sallyport stack relay-certificate ./relay --stack sallyport --dns relay.example.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server := token.ServerNames{DNS: names, URI: token.URIRelay}
			if broker {
				server.URI = token.URIBroker
			}
			for _, s := range ips {
				ip := net.ParseIP(s)
				if ip == nil {
					return usage(cmd, "--ip %q is not an address", s)
				}
				server.IPs = append(server.IPs, ip)
			}
			if len(names)+len(ips) == 0 {
				return usage(cmd, "--dns or --ip is missing: under which names is the relay reached?")
			}
			return w.certificate(cmd, args[0], server)
		},
	}
	w.flags(c)
	c.Flags().StringSliceVar(&names, "dns", nil, "a name of the relay; may be given more than once")
	c.Flags().BoolVar(&broker, "broker", false, "for a server in front of all functions instead, which clients pin by #ca=…")
	c.Flags().StringSliceVar(&ips, "ip", nil, "an address of the relay; may be given more than once")
	return c
}

func (w *which) certificate(cmd *cobra.Command, into string, names token.ServerNames) error {
	s, _, err := w.open(cmd)
	if err != nil {
		return err
	}
	ca := s.CA(cmd.Context())
	if err := s.Err(); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := ca.IssueServer(cmd.Context(), &key.PublicKey, names, time.Now())
	if err != nil {
		return err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(into, 0o700); err != nil {
		return err
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ca.PEM()...)
	return errors.Join(
		os.WriteFile(filepath.Join(into, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600),
		os.WriteFile(filepath.Join(into, "cert.pem"), chain, 0o600),
		os.WriteFile(filepath.Join(into, "ca.pem"), ca.PEM(), 0o600))
}

func stackEvidenceCommand() *cobra.Command {
	var w which
	c := &cobra.Command{
		Use:   "evidence DIR --stack NAME",
		Short: "Fetch the evidence log, for audit verify",
		Long: `Copy the log's objects into DIR/evidence, which must not hold a checkpoint yet, and the log's key beside them, as KMS has it now: compare
it with the copy that you keep.`,
		Example: `  sallyport stack evidence ./fetched --stack sallyport
  sallyport audit verify --dir ./fetched`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := w.open(cmd)
			if err != nil {
				return err
			}
			copied, err := fetchEvidence(cmd.Context(), s, filepath.Join(args[0], "evidence"))
			if err != nil {
				return err
			}
			if n := len(copied.Strange); n > 0 {
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d objects in the bucket are not of the log, and were left there: %s …\n", n, inline(fmt.Sprintf("%.80q", copied.Strange[0]))) // a warning
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d objects are in %s; next: sallyport audit verify --dir %s\n", copied.Objects, filepath.Join(args[0], "evidence"), args[0])
			return err
		},
	}
	w.flags(c)
	return c
}

func fetchEvidence(ctx context.Context, s *deployment.Stack, into string) (copied deployment.Copied, err error) {
	key, origin := s.Signer(ctx, deployment.KeyCheckpoint), s.Setting(deployment.Origin)
	if err := s.Err(); err != nil {
		return copied, err
	}
	line, err := audit.VerifierKey(origin, key.Public())
	if err != nil {
		return copied, err
	}
	to, err := dir.Open(into)
	if err != nil {
		return copied, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if copied, err = s.CopyEvidence(ctx, to, to); err != nil {
		return copied, err
	}
	return copied, to.Create(ctx, evidenceKeyFile, []byte(line+"\n"))
}
