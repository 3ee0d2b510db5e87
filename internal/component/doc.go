// Package component serves Dapr's pluggable-component protocol on a Unix socket: a state store and a pub/sub, one
// instance of each for every connection of a sidecar.
//
// The wire types and the translation to Dapr's component interfaces are components-go-sdk's, on a gRPC server of our
// own. What that SDK (v0.3.0) gets wrong is put right around it, in sdkfaults.go and sdkfaults_pull.go; that it tells
// instances apart by the component's name alone, in connection.go. Its root package must not be imported: that alone
// sets the umask of the process to 0.
//
// A call comes down through server.go (its way), call.go (what is known of it), limiter.go (its turn), bind.go (its
// instance) and sdkfaults.go to statestore.go or pubsub.go.
package component
