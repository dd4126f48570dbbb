package main

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

func (a *app) agentCommand() *cobra.Command {
	c := &cobra.Command{Use: "agent", Short: "Manage the agents that hold the credentials"}
	c.AddCommand(a.enrollCommand(), a.revokeAgentCommand())
	return c
}

func (a *app) revokeAgentCommand() *cobra.Command {
	var reason, output string
	c := &cobra.Command{
		Use:   "revoke NAME",
		Short: "End an agent: what it was enrolled with counts no more, its sessions end (administrators)",
		Long: `End an agent: every certificate and join token that it has now is refused from here on, and its sessions end within seconds. It serves again
once it is enrolled anew with a fresh join token. Revoking it again does no harm.`,
		Example: "  sallyport agent revoke db-agent --reason 'the machine is gone'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			if err := access.CheckName("agent", args[0]); err != nil {
				return usage(cmd, "%v", err)
			}
			return a.revokeAgent(cmd, api.RevokeAgentRequest{Agent: access.AgentName(args[0]), Reason: reason}, output == "json")
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the evidence")
	addOutput(c, &output)
	return c
}

func (a *app) revokeAgent(cmd *cobra.Command, r api.RevokeAgentRequest, asJSON bool) error {
	if err := a.outside(); err != nil {
		return err
	}
	v, done, err := a.voice(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	var out api.RevokeAgentResponse
	if err := v.Do(cmd.Context(), http.MethodPost, api.PathRevokeAgent, r, &out); err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, out)
	}
	_, err = fmt.Fprintf(a.stdout, "agent %s is revoked: what it was enrolled with up to %s counts no more; open sessions ended: %d\nto let it serve again: sallyport agent enroll %s --target …\n",
		r.Agent, clock(out.Before), out.Sessions, r.Agent)
	return err
}

func (a *app) enrollCommand() *cobra.Command {
	var targets []string
	var output string
	c := &cobra.Command{
		Use:   "enroll NAME --target TARGET…",
		Short: "Make a join token with which a new agent gets its certificate (administrators)",
		Long: `Make a join token: good once, within an hour, for an agent of this name and these targets. Hand it to sallyport-agent on the machine
that is to hold the credentials; the agent makes its key there. The token is shown once.`,
		Example: "  sallyport agent enroll db-agent --target app",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			r := api.JoinRequest{Agent: access.AgentName(args[0])}
			if err := access.CheckName("agent", args[0]); err != nil {
				return usage(cmd, "%v", err)
			}
			if len(targets) == 0 {
				return usage(cmd, "--target is missing: which targets may the agent serve?")
			}
			for _, t := range targets {
				if err := access.CheckName("target", t); err != nil {
					return usage(cmd, "--target: %v", err)
				}
				r.Targets = append(r.Targets, access.TargetName(t))
			}
			return a.enroll(cmd, r, output == "json")
		},
	}
	c.Flags().StringSliceVar(&targets, "target", nil, "a target that the agent may serve; may be given more than once")
	addOutput(c, &output)
	return c
}

func (a *app) enroll(cmd *cobra.Command, r api.JoinRequest, asJSON bool) error {
	if err := a.outside(); err != nil {
		return err
	}
	v, done, err := a.voice(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	var out api.JoinResponse
	if err := v.Do(cmd.Context(), http.MethodPost, api.PathJoin, r, &out); err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, out)
	}
	if _, err = fmt.Fprintf(a.stdout, "join token of agent %s, good once until %s:\n\n%s\n", r.Agent, clock(out.Expires), out.JoinToken); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stderr, "\nnext: on the agent's machine, put it into a file that only the agent reads, name it in agent.yaml (join_token: {file: …}),\nand start sallyport-agent run --config agent.yaml\n")
	return err
}

// versionJSON is what `version -o json` prints.
type versionJSON struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func versionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  sallyport version -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			v := versionJSON{Version: "(unknown)", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				v.Version = info.Main.Version
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "sallyport %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch)
			return err
		},
	}
	addOutput(c, &output)
	return c
}
