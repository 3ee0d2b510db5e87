// Package component serves Dapr's pluggable-component protocol on a Unix socket: a state store and a pub/sub for every
// connection of a sidecar.
//
// The services are the protocol's own, on a gRPC server of our own. components-go-sdk (v0.3.0), which translates them to
// components-contrib's interfaces, is left out for what it loses on the way: it decodes JSON values and hands over nothing
// where they are not JSON, panics on requests with a part missing and on acknowledgements that come late, throws the error
// of a bulk publish away, does not pass Ping on, lacks Pause, Resume and MultiMaxSize, and tells the instances of two
// sidecars apart by the component's name alone.
//
// A call comes down through connection.go (its bytes), server.go (its way), limiter.go and turn.go (its turn) and bind.go
// (which store or broker it is for) to statestore.go, query.go, pubsub.go or pull.go. errors.go makes a status of its error,
// outcome.go counts and logs it, and answer.go counts its answer until it is read.
package component
