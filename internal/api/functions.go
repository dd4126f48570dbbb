package api

import "strings"

// Names of the functions in Discovery.Functions.
const (
	FunctionDecide  = "decide"
	FunctionChanges = "changes"
	FunctionRecord  = "record"
	FunctionApprove = "approve"
	FunctionEnroll  = "enroll"
)

// FunctionOf names the function that serves a path, which may carry a query; "" is functions/token, which serves discovery.
func FunctionOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	switch path {
	case PathOpen, PathCheck, PathClaim, PathClose, PathCan, PathUpload:
		return FunctionDecide
	case PathChanges:
		return FunctionChanges
	case PathRecord, PathChunks:
		return FunctionRecord
	case PathJoin, PathEnroll, PathRecertify, PathRevokeAgent:
		return FunctionEnroll
	}
	for _, below := range []string{PathApprovals, PathSessions, PathActors} {
		if rest, ok := strings.CutPrefix(path, below); ok && (rest == "" || rest[0] == '/') {
			return FunctionApprove
		}
	}
	return ""
}
