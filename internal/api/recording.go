package api

import (
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// PathChunks takes recordings in, a chunk at a time; served by functions/record, signed by the agent.
const PathChunks = PathRecord + "/chunks"

// Limits of recordings. A chunk of MaxChunk becomes 350 kB in JSON; a call of MaxChunkBytes stays under MaxBody.
const (
	MaxChunk      = 256 << 10 // bytes of one chunk
	MaxChunks     = 1_000_000 // chunks of one recording: their names have six digits
	MaxChunkBatch = 64        // chunks in one call
	MaxChunkBytes = 3 << 20   // bytes of the chunks in one call
	MaxRecorded   = 256       // bytes of a recording's name
)

// Kinds of a recording.
const (
	RecordingCast = "cast" // a terminal: lines of asciicast version 2
	RecordingFile = "file" // the bytes of a file that was transferred
)

// Reasons why a recording ended.
const (
	ReasonComplete    = "complete"    // whoever wrote it closed it
	ReasonSession     = "session"     // its session ended first
	ReasonInterrupted = "interrupted" // its agent was killed; what it had kept by then is there
)

// ChunksRequest delivers chunks, those of one recording in order, at least once: the broker stores each once.
type ChunksRequest struct {
	Agent  access.AgentName `json:"agent"`
	Chunks []Chunk          `json:"chunks"`
}

// Chunk is a part of a recording. The last one may be empty.
type Chunk struct {
	Session access.SessionID `json:"session"`
	Command access.CommandID `json:"command"`
	Seq     uint64           `json:"seq"`   // of the command
	Index   int              `json:"index"` // 0, 1, 2…
	Kind    string           `json:"kind"`
	Name    string           `json:"name,omitempty"` // what it shows, for people; with the first chunk
	Time    time.Time        `json:"time"`           // the agent's clock, when its first byte was recorded
	Data    []byte           `json:"data"`
	Last    bool             `json:"last,omitempty"`
	Reason  string           `json:"reason,omitempty"` // with the last one
}

// ChunksResponse names the chunks that were refused for good; sending them again changes nothing, and what follows them is refused as
// well. All others are stored.
type ChunksResponse struct {
	Refused []RefusedChunk `json:"refused,omitempty"`
}

// RefusedChunk is a chunk that will never be stored.
type RefusedChunk struct {
	Session access.SessionID `json:"session"`
	Command access.CommandID `json:"command"`
	Index   int              `json:"index"`
	Why     string           `json:"why"`
}

// RecordingView is a recording for display.
type RecordingView struct {
	Command access.CommandID `json:"command"`
	Seq     uint64           `json:"seq"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name"`
	Chunks  int              `json:"chunks"`
	Bytes   int64            `json:"bytes"`
	Started time.Time        `json:"started"`
	Updated time.Time        `json:"updated"`         // when its newest chunk came
	Ended   string           `json:"ended,omitempty"` // the reason; empty while it runs
}

// ChunksView is a run of a recording's bytes: whole chunks from From on, at most MaxChunkBytes of them.
type ChunksView struct {
	From  int    `json:"from"`
	Next  int    `json:"next"` // ask for more from here
	Data  []byte `json:"data"`
	Ended string `json:"ended,omitempty"` // the recording's reason, where Next is behind its last chunk
}

// EndRequest ends a session.
type EndRequest struct {
	Reason string `json:"reason"`
}
