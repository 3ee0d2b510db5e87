// Package etcdengine keeps state in an etcd cluster, which several processes may share.
//
// A [Cluster] is the connection. [Connect] finds out what the servers take in one transaction and in one request, and
// refuses servers that take too little. [Cluster.Engine] returns the statestore.Engine of one bucket; [Cluster.Limits] are
// what its Store must hold its calls to.
//
// How it keeps what statestore promises:
//
//   - Concurrent calls share etcd transactions. One that depends on what is stored reads it first, and names in the
//     transaction's comparisons the revision of every key that it has read; if another process was faster, it starts again.
//   - An ETag is the revision that wrote the key, with a hash of the key: keys of one transaction share a revision. The hash
//     covers a random number of the bucket, too, so that no ETag of one place is taken for one of another.
//   - What expires has the instant in its record. Each process goes by its own clock. The process that holds a lease
//     sweeps; all others leave it to that one.
//   - A snapshot is a revision. It fails once etcd has compacted that revision: the servers' --auto-compaction-retention is
//     the longest that a query may take.
//
// All keys of a bucket begin with PREFIX/DATABASE/state/BUCKET/, in which no part has a slash; see layout.go.
package etcdengine
