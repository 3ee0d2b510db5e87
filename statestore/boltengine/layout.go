package boltengine

import (
	"encoding/binary"
	"fmt"
	"math"
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
const (
	prefixValue           = 'v'
	prefixExpiry          = 'e'
	prefixIdempotency     = 'i'
	prefixIdempotencyTime = 'x'
	prefixIndex           = 'n'
	prefixIndexEntry      = 'q'

	instantSize = 8
	indexIDSize = 4
	lengthSize  = 2
)

func valueKey[K ~string | ~[]byte](key K) []byte {
	return append(append(make([]byte, 0, 1+len(key)), prefixValue), key...)
}

func idempotencyKey(digest []byte) []byte {
	return append([]byte{prefixIdempotency}, digest...)
}

// timeKey is the key of an entry in time order; of is the state key or the digest.
func timeKey[T ~string | ~[]byte](prefix byte, instant int64, of T) []byte {
	k := make([]byte, 0, 1+instantSize+len(of))
	k = append(k, prefix)
	k = binary.BigEndian.AppendUint64(k, uint64(instant))
	return append(k, of...)
}

// parseTimeKey takes a timeKey apart.
func parseTimeKey(k []byte) (instant int64, of []byte, err error) {
	if len(k) <= 1+instantSize {
		return 0, nil, fmt.Errorf("an entry in time order has %d bytes, want more than %d", len(k), 1+instantSize)
	}
	n := binary.BigEndian.Uint64(k[1:])
	if n > math.MaxInt64 {
		return 0, nil, fmt.Errorf("an entry in time order has the instant %d, want at most %d", n, int64(math.MaxInt64))
	}
	return int64(n), k[1+instantSize:], nil
}

func indexRecordKey(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte{prefixIndex}, id) }

// indexEntryPrefix begins the keys of an index's entries.
func indexEntryPrefix(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixIndexEntry}, id)
}

func indexEntry(id uint32, indexKey, key []byte) (k, v []byte) {
	k = make([]byte, 0, 1+indexIDSize+len(indexKey)+len(key))
	k = append(k, prefixIndexEntry)
	k = binary.BigEndian.AppendUint32(k, id)
	k = append(append(k, indexKey...), key...)
	return k, binary.BigEndian.AppendUint16(nil, uint16(len(indexKey)))
}

// parseIndexEntry takes an entry apart; ok is false if it has not the form of one.
func parseIndexEntry(k, v []byte) (indexKey, key []byte, ok bool) {
	const head = 1 + indexIDSize
	if len(v) != lengthSize {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(v))
	if n == 0 || len(k) <= head+n {
		return nil, nil, false
	}
	return k[head : head+n], k[head+n:], true
}
