package main

import "github.com/spf13/cobra"

// moreCommands are those that need no identity.
func moreCommands() []*cobra.Command {
	return []*cobra.Command{devCommand(), policyCommand(), auditCommand(), stackCommand()}
}
