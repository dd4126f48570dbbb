package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/state"
	"github.com/sallyport/sallyport/internal/api"
)

func (a *app) initCommand() *cobra.Command {
	var w which
	var output string
	c := &cobra.Command{
		Use:   "init --stack NAME",
		Short: "Make this program ready for a deployment on AWS: after it, `sallyport login` knows the broker",
		Long: `Read the outputs of a deployed stack from CloudFormation, and remember where its broker is. It takes AWS credentials and region from the
environment, for cloudformation:DescribeStacks alone; with a profile, put them there first:

  eval "$(aws configure export-credentials --format env)"; export AWS_REGION=eu-west-1

Without AWS credentials, --outputs FILE reads what somebody else got from ` + "`aws cloudformation describe-stacks`" + `. SALLYPORT_URL has the last
word wherever it is set. To make a new stack itself ready, see ` + "`sallyport stack init`" + `.`,
		Example: "  sallyport init --stack sallyport && sallyport login",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			if err := a.outside(); err != nil {
				return err
			}
			d, err := w.usable(cmd)
			if err != nil {
				return err
			}
			dir, err := a.state()
			if err != nil {
				return err
			}
			b := state.Broker{URL: d.Outputs["Broker"], Console: d.Outputs["Console"], Stack: d.Name, Region: a.region()}
			set := a.getenv("SALLYPORT_URL")
			if at, _, pinned := strings.Cut(set, "#"); pinned && strings.TrimSuffix(at, "/") == strings.TrimSuffix(b.URL, "/") {
				b.URL = set // the same broker, with the pin of a CA of its own, which no output has
			}
			if err := dir.SaveBroker(b); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(a.stdout, b)
			}
			_, err = fmt.Fprintf(a.stdout, "broker   %s\nconsole  %s\nnext: sallyport login\n", b.URL, b.Console)
			if err == nil && set != "" && strings.TrimSuffix(set, "/") != strings.TrimSuffix(b.URL, "/") {
				_, err = fmt.Fprintf(a.stderr, "SALLYPORT_URL is set to another broker, %s, and has the last word: unset it\n", shown(set))
			}
			return err
		},
	}
	w.flags(c)
	addOutput(c, &output)
	return c
}

func (a *app) region() string {
	if r := a.getenv("AWS_REGION"); r != "" {
		return r
	}
	return a.getenv("AWS_DEFAULT_REGION")
}

// brokerURL is where to log in: as the flag says, else the environment, else `sallyport init`, else the last login.
func (a *app) brokerURL(cmd *cobra.Command, flag string, d state.Dir) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if url := a.getenv("SALLYPORT_URL"); url != "" {
		return url, nil
	}
	b, err := d.LoadBroker()
	if err != nil {
		return "", api.Because(api.ErrBadRequest, "run `sallyport init --stack NAME` again, or set SALLYPORT_URL", "%v", err)
	}
	if b.URL != "" {
		return b.URL, nil
	}
	if old, err := d.Load(); err == nil {
		return old.URL, nil
	}
	return "", usage(cmd, "which broker? Run `sallyport init --stack NAME`, or set SALLYPORT_URL or --url")
}
