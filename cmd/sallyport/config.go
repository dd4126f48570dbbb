package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client/run"
)

// configView is what `config ssh -o json` prints.
type configView struct {
	Hosts    string   `json:"hosts"`    // the pattern of names
	File     string   `json:"file"`     // our own
	Included string   `json:"included"` // the user's, at whose head our file is named
	Text     string   `json:"text"`     // of our file
	Changed  []string `json:"changed"`  // files that were written
}

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Set up other programs of this machine"}
	var write bool
	var output string
	sub := &cobra.Command{
		Use:   "ssh",
		Short: "Let plain ssh, scp, sftp, rsync and git reach TARGET" + sshSuffix,
		Long: `Print what ssh's configuration needs so that TARGET` + sshSuffix + ` goes through the gate. --write puts it into a file beside the login, and an
Include of that at the head of ~/.ssh/config, where nothing else is changed; a second time it changes nothing at all.

ssh believes only keys of agents that the channel below has proved. Inside a run it shares no connection (ControlMaster) with what was started
outside, unless a program says -o ControlPath itself: such a connection is its opener's.`,
		Example: `  sallyport config ssh --write
  ssh web` + sshSuffix + ` uptime`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			return a.configSSH(write, output == "json")
		},
	}
	sub.Flags().BoolVar(&write, "write", false, "write it, instead of printing it")
	addOutput(sub, &output)
	c.AddCommand(sub)
	return c
}

func (a *app) configSSH(write, asJSON bool) error {
	d, err := a.state()
	if err != nil {
		return err
	}
	home := a.getenv("HOME")
	if home == "" {
		return errors.New("config ssh: HOME is not set")
	}
	v := configView{Hosts: "*" + sshSuffix, File: d.File("ssh_config"), Included: filepath.Join(home, ".ssh", "config"), Changed: []string{}}
	options, err := sshOptions(d.File("known_hosts"))
	if err != nil {
		return err
	}
	v.Text = sshConfig(options)
	if write {
		if err := v.write(); err != nil {
			return err
		}
	}
	switch {
	case asJSON:
		return printJSON(a.stdout, v)
	case !write:
		_, err = io.WriteString(a.stdout, v.Text)
	default:
		_, err = fmt.Fprintf(a.stdout, "%s\nincluded by %s: try `ssh TARGET%s`\n", v.File, v.Included, sshSuffix)
	}
	return err
}

// sshConfig is the text of our file. Of every option ssh takes the first value that it meets, so that ours come before the user's own. The name is as
// it was typed: a CanonicalDomains of the user's makes no difference.
func sshConfig(options []string) string {
	var b strings.Builder
	b.WriteString("# Written by `sallyport config ssh --write`, and again by the next.\n")
	fmt.Fprintf(&b, "Match originalhost *%s exec \"test x$%s != x\"\n  ControlMaster no\n  ControlPath none\n", sshSuffix, run.EnvSock)
	fmt.Fprintf(&b, "Match originalhost *%s\n", sshSuffix)
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		fmt.Fprintf(&b, "  %s %s\n", key, value)
	}
	return b.String()
}

// write brings both files up to date.
func (v *configView) write() error {
	if err := v.update(v.File, v.Text); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(v.Included), 0o700); err != nil {
		return fmt.Errorf("config ssh: %w", err)
	}
	old, err := os.ReadFile(v.Included)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("config ssh: %w", err)
	}
	line := "Include \"" + v.File + "\"\n" // at the head no block is open yet
	if strings.HasPrefix(string(old), line) || strings.Contains(string(old), "\n"+line) {
		return nil
	}
	return v.update(v.Included, line+string(old))
}

func (v *configView) update(path, text string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return nil
	}
	if err := replace(path, text); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	v.Changed = append(v.Changed, path)
	return nil
}

// replace writes a whole file or none, for this user alone. Where the path is a link, what it leads to is replaced.
func replace(path, text string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".sallyport-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
