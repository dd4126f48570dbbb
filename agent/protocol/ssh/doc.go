// Package ssh is the room for SSH: it speaks version 2 on both legs, reads each exec request's command line as a shell would, asks the
// gate, and forwards what was allowed; files that sftp names are decided one operation at a time.
// It refuses shells and terminals, forwarding of every kind, agents, X11, subsystems other than sftp, environment other than the
// locale, and every request and channel that it does not know.
//
// Specification: RFC 4251 to 4254, RFC 8308, and OpenSSH's PROTOCOL for strict key exchange, keepalive@openssh.com and no-more-sessions@openssh.com;
// draft-ietf-secsh-filexfer-02 (version 3) for sftp.
//
// Client leg: the stream already runs inside TLS 1.3 between endpoint and agent, and the endpoint has proved on that very channel who
// speaks. So "none" is enough where the endpoint knows its caller, and the endpoint's one-off password where it does not. No key of a
// client is ever looked at. The name that a client logs in as is for display. The agent shows a key of its own, one for each target.
//
// Host leg: a password or a private key from the agent's configuration, the host's key pinned, strict key exchange demanded.
//
// Decisions: one command for each exec, with a touch for every program that it starts and every path that it reads or writes. The line is read as
// POSIX and as bash, and what these read differently, or what only the host can know (variables, patterns, code of other languages), is
// incomplete, which policy denies unless it says otherwise. A program whose arguments the room does not know has the effect "unknown"
// on that program, so that a policy may permit it by name. Many channels on one connection are decided and recorded one by one.
//
// Known limits: paths are names, not files: what a symbolic link on the host leads to is not seen. A touch of DIR/* stands for everything
// below DIR. The login shell must be a POSIX shell or bash, and what its start-up files define is trusted. A command that
// is ended early is sent SIGTERM and loses its channel; where the host refuses signals, as OpenSSH does for root, it runs on until it next
// reads or writes.
package ssh
