// Package grpcenv sets what gRPC reads from the environment, once, when the program starts.
//
// It must import nothing that imports gRPC: of packages that could be initialised next, Go takes the one whose import
// path sorts first (https://go.dev/ref/spec#Program_initialization), and so this one comes before gRPC's own.
package grpcenv

import "os"

// From 1.82.1 on, gRPC stops reading a connection while 100 frames, DATA and HEADERS apart, wait to be written. A sidecar
// that writes to a busy connection may wait to be read from while it does the same, and then nothing moves any more
// (https://github.com/grpc/grpc-go/issues/9330). It takes both sides: one that reads on is enough. The limit that is set
// here is the highest that gRPC allows, some thousand calls at once; what a client that never reads can make it hold
// for a connection stays below a few MiB.
const (
	throttleVariable = "GRPC_GO_EXPERIMENTAL_CONTROL_BUFFER_THROTTLE_LIMIT"
	throttleLimit    = "10000"
)

func init() {
	if _, set := os.LookupEnv(throttleVariable); set {
		return
	}
	// An error would be about the name or the value.
	_ = os.Setenv(throttleVariable, throttleLimit)
}
