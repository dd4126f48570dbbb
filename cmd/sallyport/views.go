package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
)

// show asks the broker for a path as whoever speaks here, and prints the answer.
func show[T any](a *app, cmd *cobra.Command, output, path string, text func(io.Writer, T) error) error {
	if err := checkOutput(cmd, output); err != nil {
		return err
	}
	v, done, err := a.voice(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	var out T
	if err := v.Do(cmd.Context(), http.MethodGet, path, nil, &out); err != nil {
		return err
	}
	if output == "json" {
		return printJSON(a.stdout, out)
	}
	return text(a.stdout, out)
}

// idPath is where one thing is shown. An id that could not be one is refused here, in words.
func idPath(cmd *cobra.Command, base, id string) (string, error) {
	if id == "" || len(id) > 64 || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return "", usage(cmd, "%q is no id", id)
	}
	return base + "/" + url.PathEscape(id), nil
}

func (a *app) approvalsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "approvals", Short: "Show held commands and what became of them",
		Long: `A held command waits until a reviewer approves exactly it, in the browser, after a fresh login. Nothing can be approved from here.`,
	}
	var status, lsOut, showOut string
	known := []string{"pending", "approved", "denied", "expired", "withdrawn", "claimed"}
	ls := &cobra.Command{
		Use: "ls", Short: "List approvals, newest first", Args: cobra.NoArgs,
		Example: "  sallyport approvals ls --status pending\n  sallyport approvals ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := api.PathApprovals
			if status != "" {
				if !slices.Contains(known, status) {
					return usage(cmd, "--status %s: want one of %s", status, strings.Join(known, ", "))
				}
				path += "?status=" + status
			}
			return show(a, cmd, lsOut, path, listOf(printApprovals))
		},
	}
	ls.Flags().StringVar(&status, "status", "", "only those: "+strings.Join(known, ", "))
	addOutput(ls, &lsOut)
	one := &cobra.Command{
		Use: "show ID", Short: "Show one approval: exactly what would run, who asks, who answered", Args: cobra.ExactArgs(1),
		Example: "  sallyport approvals show 01JD0000000000000000000000",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := idPath(cmd, api.PathApprovals, args[0])
			if err != nil {
				return err
			}
			return show(a, cmd, showOut, path, printApproval)
		},
	}
	addOutput(one, &showOut)
	c.AddCommand(ls, one)
	return c
}

// listOf prints lists; it exists so that -o json of an empty list is [] and not null.
func listOf[T any](text func(io.Writer, []T) error) func(io.Writer, list[T]) error {
	return func(w io.Writer, l list[T]) error { return text(w, l) }
}

type list[T any] []T

func (l list[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

func (a *app) sessionsCommand() *cobra.Command {
	c := &cobra.Command{Use: "sessions", Short: "Show who ran what, play what was recorded, and end what runs"}
	var limit int
	var lsOut, showOut string
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List sessions, newest first", Args: cobra.NoArgs,
		Example: "  sallyport sessions ls\n  sallyport sessions ls --limit 10 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 1000 {
				return usage(cmd, "--limit %d: want 1 to 1000", limit)
			}
			return show(a, cmd, lsOut, api.PathSessions+"?limit="+strconv.Itoa(limit), listOf(printSessions))
		},
	}
	ls.Flags().IntVar(&limit, "limit", 100, "how many at most")
	addOutput(ls, &lsOut)
	one := &cobra.Command{
		Use: "show ID", Short: "Show a session with every command, decision, reason, rows, masked counts, approval and lineage",
		Args:    cobra.ExactArgs(1),
		Example: "  sallyport sessions show 01JD0000000000000000000000\n  sallyport sessions show 01JD0000000000000000000000 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := idPath(cmd, api.PathSessions, args[0])
			if err != nil {
				return err
			}
			return show(a, cmd, showOut, path, printSession)
		},
	}
	addOutput(one, &showOut)
	c.AddCommand(ls, one, a.replayCommand(), a.exportCommand(), a.watchCommand(), a.endCommand())
	return c
}

func (a *app) actorsCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "actors", Short: "Show the tree of actors, with what each is accessing", Args: cobra.NoArgs,
		Long:    "Show person, actors and their actors as a tree. The ids in it are what `sallyport revoke` takes.",
		Example: "  sallyport actors",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(a, cmd, output, api.PathActors, listOf(printActors))
		},
	}
	addOutput(c, &output)
	return c
}

func (a *app) revokeCommand() *cobra.Command {
	var reason, root string
	c := &cobra.Command{
		Use:   "revoke ACTOR",
		Short: "End an actor and everything under it, at its next command",
		Long: `Revoke an actor, by id or by name where only one has it, and all of its descendants: their next commands are refused and their live
sessions end within seconds. A person may revoke every actor of theirs, an actor those that it made itself. "all" revokes the
whole login.`,
		Example: `  sallyport revoke coder --reason 'went astray'
  sallyport revoke 01JD0000000000000000000000`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.revoke(cmd, args[0], root, reason) },
	}
	c.Flags().StringVar(&reason, "reason", "", "why; auditors read it")
	c.Flags().StringVar(&root, "root", "", "id of the login, where ACTOR belongs to somebody else's (administrators)")
	return c
}

func (a *app) revoke(cmd *cobra.Command, actor, root, reason string) error {
	ctx := cmd.Context()
	v, done, err := a.voice(ctx)
	if err != nil {
		return err
	}
	defer done()
	r := api.RevokeRequest{Root: access.ActorID(root), Actor: access.ActorID(actor), Reason: reason}
	if root == "" {
		var me api.Whoami
		if err := v.Do(ctx, http.MethodGet, api.PathWhoami, nil, &me); err != nil {
			return err
		}
		r.Root = me.Lineage.Root()
		var tree []api.ActorView
		if err := v.Do(ctx, http.MethodGet, api.PathActors, nil, &tree); err != nil {
			return err
		}
		if r.Actor, err = findActor(tree, r.Root, actor); err != nil {
			return err
		}
	}
	if err := v.Do(ctx, http.MethodPost, api.PathRevoke, r, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "revoked %s and everything under it\n", actor)
	return err
}

// findActor finds an actor of one login by id or name.
func findActor(tree []api.ActorView, root access.ActorID, want string) (access.ActorID, error) {
	if want == "all" || want == string(root) {
		return root, nil
	}
	var named []access.ActorID
	var walk func(v api.ActorView) bool
	walk = func(v api.ActorView) bool {
		if string(v.Node.ID) == want {
			return true
		}
		if v.Node.Name == want && v.Status == "live" && v.Node.ID != root {
			named = append(named, v.Node.ID)
		}
		return slices.ContainsFunc(v.Children, walk)
	}
	for _, v := range tree {
		if v.Node.ID == root && walk(v) {
			return access.ActorID(want), nil
		}
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return "", api.Because(api.ErrNotFound, "`sallyport actors` lists them", "no live actor of yours is called %q", want)
	}
	return "", api.Because(api.ErrBadRequest, "give the id; `sallyport actors` lists them", "%d live actors are called %q", len(named), want)
}
