package ssh

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/internal/access"
)

// onTerminal is what a terminal does as far as anybody can say: its own name, under an effect that no command line has, and anything
// else there is. So policy opens one only by permitting "unknown" on it, by its name.
func onTerminal() []access.Touch {
	terminal := access.Resource{Kind: access.KindProgram, Name: string(ModeTerminal)}
	return []access.Touch{{Effect: access.Connect, Resource: terminal}, {Effect: access.Unknown, Resource: terminal}}
}

// grant is the command that opens a shell in a mode.
func (c *channel) grant(m Mode) access.Command {
	cmd := access.Command{Verb: "SHELL", Complete: true, State: access.State{Role: c.l.s.Login.User}, Facts: access.Facts{Statement: 1}}
	switch m {
	case ModeTerminal:
		cmd.Text = "shell on a terminal"
		cmd.Touches, cmd.Classes = onTerminal(), c.l.everything()
	case ModeLine:
		cmd.Text = "shell, line by line"
		cmd.Touches = []access.Touch{{Effect: access.Connect, Resource: access.Resource{Kind: access.KindProgram, Name: string(ModeLine)}}}
	}
	cmd.Normalised = cmd.Text
	return cmd
}

// shell gives the client the first of the target's modes that policy permits. Without a terminal there are lines only.
func (c *channel) shell(ctx context.Context) {
	modes := c.l.settings.Shells
	if c.pty == nil {
		modes = nil
		if c.l.settings.gives(ModeLine) {
			modes = []Mode{ModeLine}
		}
	}
	if len(modes) == 0 {
		c.refuse(ctx, refusedRequest("shell"))
		return
	}
	for i, m := range modes {
		permit, err := c.ask(ctx, c.grant(m))
		if err == nil {
			if m == ModeLine {
				c.lines(ctx, permit)
			} else {
				c.alone(ctx, permit, job{request: "shell", title: "shell"})
			}
			return
		}
		if d := (*access.Denied)(nil); i+1 == len(modes) || !errors.As(err, &d) || d.Code != access.CodeDenied && d.Code != access.CodeNotMaskable {
			c.deny(deniedBy(err))
			return
		}
	}
}
