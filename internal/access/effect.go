package access

// Effect is what a command does to a resource, not the verb that was typed.
type Effect string

// The effects. A room that cannot tell says EffectUnknown, which nothing permits unless a policy names it.
const (
	EffectRead     Effect = "read"
	EffectWrite    Effect = "write"
	EffectDefine   Effect = "define"   // DDL
	EffectGrant    Effect = "grant"    // rights, roles, passwords
	EffectExecute  Effect = "execute"  // code that the room cannot look into
	EffectTransfer Effect = "transfer" // files and bulk copies across the boundary
	EffectForward  Effect = "forward"  // carry other connections
	EffectConnect  Effect = "connect"  // open a session
	EffectUnknown  Effect = "unknown"
)

// Effects lists every effect, in the order of the constants.
var Effects = []Effect{EffectRead, EffectWrite, EffectDefine, EffectGrant, EffectExecute, EffectTransfer, EffectForward,
	EffectConnect, EffectUnknown}
