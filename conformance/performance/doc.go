// Package bench measures dapr-bolt beside its peers, in one run on one machine, and reports throughput, latency and how
// the numbers compare.
//
// Every peer is called through the Go interface by which a Dapr sidecar calls it. For dapr-bolt that is the runtime's
// own adapter, with the Unix socket and the process behind it; the others are the packages that are built into the
// sidecar, called directly, which spares them a socket. Everything durable is asked to be on disk before it answers.
package performance
