package run

import "github.com/sallyport/sallyport/client/login"

// Speaking makes a login's identity the actor of a run.
func Speaking(i *login.Identity) Identity { return speaking{i} }

type speaking struct{ *login.Identity }

func (s speaking) Voice() Voice { return s.Actor() }
