package api

import "github.com/sallyport/sallyport/internal/access"

// What agents sign names the agent that it is from; whoever serves it compares that with who signed.

// From is the agent that asks.
func (r *OpenRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *CheckRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *UploadRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *ClaimRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *CloseRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *ChangesRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *RecordRequest) From() access.AgentName { return r.Agent }

// From is the agent that asks.
func (r *ChunksRequest) From() access.AgentName { return r.Agent }
