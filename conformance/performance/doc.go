// Package performance measures dapr-bolt beside its peers, in one run on one machine, and says which promises are kept.
//
// A [peer] is who is measured: this tree's dapr-bolt, another build of it, Redis, SQLite, JetStream, and a bare gRPC server
// that shows what is possible. A [Cell] is what is measured: one work, by so many clients, of one peer. Cells that promises
// compare are measured in turn, within seconds of each other, round after round, as the speed of a machine changes within
// minutes; what counts is the median of the rounds' ratios. [Promises] has what is promised, [Results.Markdown] the
// report.
//
// Every peer is called through the Go interface by which a Dapr sidecar calls it. For dapr-bolt that is the runtime's own
// adapter, with the Unix socket and the process behind it; the others are the packages that are built into the sidecar,
// called directly, which spares them a socket. Everything is asked to be on disk before it answers.
package performance
