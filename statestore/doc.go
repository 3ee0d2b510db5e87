// Package statestore is what Dapr means by a state store: values under keys, with ETags, first-write, time to live,
// transactions, idempotency keys and queries.
//
// The rules, as Dapr's components and its conformance suite have them
// (https://docs.dapr.io/reference/api/state_api, components-contrib tests/conformance/state):
//
//   - A write that names an ETag takes effect only if the key's ETag is that one, whatever the concurrency mode. ETags
//     are opaque: a text that was never one of ours is the ETag of no version, hence a mismatch and not a malformed
//     request.
//   - A first-write set without an ETag takes effect only if the key does not exist. First-write means nothing to
//     a delete without an ETag; deleting what does not exist succeeds.
//   - An ETag names one version of one key for ever, also after the key was deleted and set again.
//   - A set without a time to live clears an earlier one. A key that has expired is absent for every purpose from
//     that instant on, and is removed from disk by a background sweep soon after.
//   - A transaction takes effect as a whole or not at all. Its ETags and first-writes are all checked against the
//     state before it; then its writes take effect in order.
//   - A call with an idempotency key commits its writes and the key in one step. Until the window ends, later calls
//     with that key succeed and change nothing; a call that fails does not use its key up. Idempotency keys belong to
//     the whole store, not to one state key.
//   - A query sees the values that are JSON, whatever their content type. Filter, SortKey and FieldPath say how it compares
//     and finds; indexes make it faster and change nothing of its answer.
//
// The package decides the rules; an Engine stores the data and makes each step atomic.
package statestore

import "time"

// Limits and defaults.
const (
	// MaxValueSize bounds a value, in bytes. A value that is stored must also come back: gRPC clients, the Dapr
	// sidecar among them, take answers of up to 4 MiB, and 64 KiB of that are left to what travels with a value (key,
	// content type, ETag, metadata).
	MaxValueSize = 4<<20 - 64<<10
	// MaxKeySize bounds a key, in bytes; it leaves an engine room for prefixes and index entries.
	MaxKeySize = 16 << 10
	// MaxContentTypeSize bounds a content type, in bytes.
	MaxContentTypeSize = 1 << 10
	// MaxIdempotencyKeySize bounds an idempotency key, in bytes.
	MaxIdempotencyKeySize = 1 << 10
	// MaxTransactionSize bounds the writes in one transaction. Dapr purges or restarts a workflow in one, and ends a turn
	// in one, with a write for each event. It reads all of them back in one answer of 4 MiB, which holds fewer.
	MaxTransactionSize = 50_000
	// MaxTTL bounds the time to live of a key and the window of an idempotency key; it is what Dapr can express.
	MaxTTL = (1<<31 - 1) * time.Second

	// DefaultIdempotencyWindow is how long an idempotency key is remembered unless the call says otherwise.
	DefaultIdempotencyWindow = 24 * time.Hour
	// DefaultCleanupInterval is how often expired keys are removed from disk unless someone asks for another interval.
	DefaultCleanupInterval = time.Minute
	// MinCleanupInterval is the shortest interval that can be asked for.
	MinCleanupInterval = 100 * time.Millisecond
)
