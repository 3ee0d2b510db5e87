// Package layout is the part of a bucket's form that the engines have in common: keys, from the byte on that says of what
// kind they are, and records. Each engine's layout.go says what the whole looks like.
package layout

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The kinds of keys that every engine has.
const (
	KindValue           = 'v'
	KindExpiry          = 'e'
	KindIdempotency     = 'i'
	KindIdempotencyTime = 'x'
	KindIndexEntry      = 'q'
)

// Sizes in bytes.
const (
	InstantSize = 8
	IndexIDSize = 4
	lengthSize  = 2
)

// IndexState is how an index is stored.
type IndexState uint8

// The states of an index.
const (
	IndexBuilding IndexState = iota + 1 // it lacks keys after the cursor
	IndexComplete
	IndexRemoving // only its entries are left
)

// TimeKey is the key of an entry in time order; of is the state key or the digest.
func TimeKey[T ~string | ~[]byte](kind byte, instant int64, of T) []byte {
	k := make([]byte, 0, 1+InstantSize+len(of))
	k = append(k, kind)
	k = binary.BigEndian.AppendUint64(k, uint64(instant))
	return append(k, of...)
}

// ParseTimeKey takes a TimeKey apart.
func ParseTimeKey(k []byte) (instant int64, of []byte, err error) {
	if len(k) <= 1+InstantSize {
		return 0, nil, fmt.Errorf("an entry in time order has %d bytes, want more than %d", len(k), 1+InstantSize)
	}
	n := binary.BigEndian.Uint64(k[1:])
	if n > math.MaxInt64 {
		return 0, nil, fmt.Errorf("an entry in time order has the instant %d, want at most %d", n, int64(math.MaxInt64))
	}
	return int64(n), k[1+InstantSize:], nil
}

// IndexEntryPrefix begins the keys of an index's entries.
func IndexEntryPrefix(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{KindIndexEntry}, id)
}

// IndexEntry says that the value under key has the index key in an index.
func IndexEntry(id uint32, indexKey, key []byte) (k, v []byte) {
	k = make([]byte, 0, 1+IndexIDSize+len(indexKey)+len(key))
	k = append(k, KindIndexEntry)
	k = binary.BigEndian.AppendUint32(k, id)
	k = append(append(k, indexKey...), key...)
	return k, binary.BigEndian.AppendUint16(nil, uint16(len(indexKey)))
}

// ParseIndexEntry takes an IndexEntry apart; ok is false if it has not the form of one.
func ParseIndexEntry(k, v []byte) (indexKey, key []byte, ok bool) {
	const head = 1 + IndexIDSize
	if len(v) != lengthSize {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(v))
	if n == 0 || len(k) <= head+n {
		return nil, nil, false
	}
	return k[head : head+n], k[head+n:], true
}
