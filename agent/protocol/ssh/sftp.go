package ssh

import "context"

// home is where the agent's user starts on the host; empty where it does not tell.
func (l *link) home(context.Context) string { return l.homeDir }

func (c *channel) sftp(ctx context.Context) {
	c.refuse(ctx, refused("SUBSYSTEM", "subsystem sftp", "ssh.subsystem", "sftp is not carried"))
}
