package boltengine

import (
	"encoding/binary"

	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// What a bucket looks like on disk. It holds everything, told apart by the key's first byte; one bucket is one lookup for a
// read, and the fewest pages for a write.
//
//	'v' key                 → record     a key's present version: version, instant of its expiry (0: none), length of its
//	                                     content type, content type, value
//	'e' instant key         → (empty)    the keys that expire, in time order
//	'i' SHA-256             → record     an idempotency key that is remembered, hashed so that its length does not matter:
//	                                     the instant of its expiry
//	'x' instant SHA-256     → (empty)    the idempotency keys, in the time order of their expiry
//	'n' id                  → record     an index on a field of JSON values, complete or not: a CBOR map with integer keys
//	                                     (RFC 8949), as indexRecord has them
//	'q' id indexkey key     → length     that a value has the index key (statestore.IndexKeys) in an index, and how many
//	                                     bytes of the entry's key the index key takes
//
// A record begins with a format byte and the CRC-32C of its key, as it is on disk, and of all that follows the checksum.
// Older files hold records without one; see format1.go.
//
// An instant is nanoseconds since 1970, UTC. The bucket's bbolt sequence is the newest version that was given out; versions
// start at 1 and are never given out again, so that an ETag (the file's incarnation and the version in decimal) names one
// version of one key for ever.
//
// An index's id takes 4 bytes; it is given out again only when nothing is left of an earlier index with that id. A length
// takes 2 bytes, versions and instants 8. All numbers are big-endian.
//
// An entry in time order without a record that expires at that very instant means nothing, nor does an entry of an index
// for a value that does not have the index key.
const kindIndex = 'n'

func valueKey[K ~string | ~[]byte](key K) []byte {
	return append(append(make([]byte, 0, 1+len(key)), layout.KindValue), key...)
}

func idempotencyKey(digest []byte) []byte {
	return append([]byte{layout.KindIdempotency}, digest...)
}

func indexRecordKey(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{kindIndex}, id) }
