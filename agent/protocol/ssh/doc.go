// Package ssh is the room for SSH: it speaks version 2 on both legs, reads each exec request's command line as a shell would, asks the
// gate, and forwards what was allowed; files that sftp names, lines of a shell, terminals and forwarded channels are decided each by itself.
// It refuses shells, terminals and forwarding where the target's settings do not name them, agents, X11, tunnels, subsystems other than
// sftp, environment other than the locale and what the settings name, and every request and channel that it does not know.
//
// Specification: RFC 4251 to 4254, RFC 4335, RFC 8308, and OpenSSH's PROTOCOL for strict key exchange, keepalive@openssh.com, no-more-sessions@openssh.com
// and sockets; PROTOCOL.certkeys for certificates; draft-ietf-secsh-filexfer-02 (version 3) for sftp; asciicast version 2 for recordings.
//
// Client leg: the stream already runs inside TLS 1.3 between endpoint and agent, and the endpoint has proved on that very channel who
// speaks. So "none" is enough where the endpoint knows its caller, and the endpoint's one-off password where it does not. No key of a
// client is ever looked at. The name that a client logs in as is for display. The agent shows a key of its own, one for each target.
//
// Host leg: a password, a private key, or a certificate that the agent signs for each session with a CA's key. The host is known by one pinned key, by
// known_hosts, or by a certificate for its name from an authority that is named; revoked keys are refused; strict key exchange is demanded.
// Old algorithms, and hosts without strict key exchange, only where the target's settings say so.
//
// Decisions: one command for each exec, with a touch for every program that it starts and every path that it reads or writes. The line is read as
// POSIX and as bash, and what these read differently, or what only the host can know (variables, patterns, code of other languages), is
// incomplete, which policy denies unless it says otherwise. A program whose arguments the room does not know has the effect "unknown"
// on that program, so that a policy may permit it by name. Many channels on one connection are decided and recorded one by one.
//
// Shells: a target's settings name the modes, policy permits them. "line" is a shell of the room's own: each line is decided, then runs on the host in a shell
// that ends with it, in the directory where the lines before led; without a terminal (ssh TARGET < script) the first refused line ends the
// script. "terminal" is the host's shell as it is: decided once (connect and unknown on the program "terminal"), recorded to the last byte, and shown
// to nobody where a class of data is not revealed. A command with a terminal (ssh -t) needs both its own decision and the terminal's.
//
// Forwarding: each channel is the effect forward on the address HOST:PORT or the path of a socket; what the host is to listen on is forward on listen:HOST:PORT,
// and each connection to it is decided again. Names are compared as names: localhost and 127.0.0.1 are two, and which address a name has, the host decides.
//
// Masking: classes with a detector are masked in the output of commands and lines. In files, forwarded channels and terminals they cannot be, so that
// these are refused unless policy reveals the class.
//
// Known limits: paths are names, not files: what a symbolic link on the host leads to is not seen, except in sftp. A touch of DIR/* stands for
// everything below DIR. The login shell must be a POSIX shell or bash, and what its start-up files define is trusted. A program that a line
// started has the terminal until it ends: what is typed into it is recorded, not decided. A command that is ended early is sent SIGTERM, then
// SIGKILL, and loses its channel, and with it its terminal; without a terminal, and where the host refuses signals, as OpenSSH does for root, it
// runs on until it next reads or writes, unless the target's settings have the agent reap it: by a
// variable of its environment, which a program can be started without. While a request to listen waits for a reviewer,
// the answers to the connection's keepalives wait behind it; other signs of life are sent in their place.
package ssh
