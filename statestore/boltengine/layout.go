package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// What a namespace looks like on disk. A namespace (boltdb.Namespace) is one bucket that holds everything, told apart by the key's first byte; one bucket is one lookup for a read, and the fewest pages for
// a write.
//
//	'v' key                 → record     a key's present version
//	'e' instant key         → (empty)    the keys that end, in time order
//	'i' SHA-256             → mark       an idempotency key that is remembered, hashed so that its length does not matter
//	'x' instant SHA-256     → (empty)    the idempotency keys, in the time order of their ends
//	'n' id                  → index      an index on a field of JSON values, complete or not
//	'q' id indexkey key     → length     that a value has the index key (statestore.IndexKeys) in an index, and how many
//	                                     bytes of the entry's key the index key takes
//
// An instant is nanoseconds since 1970, UTC, 8 bytes, big-endian. The namespace's bbolt sequence is the newest version
// that was given out; versions start at 1 and are never given out again, so that an ETag (the version in decimal) names
// one version of one key for ever.
//
// An index's id is 4 bytes, big-endian; it is given out again only when nothing is left of an earlier index with that id.
// A length is 2 bytes, big-endian.
//
// Records, marks and indexes are a format byte and a CBOR map with integer keys (RFC 8949), as their structs have them.
// An entry in time order without a record that ends at that very instant means nothing, nor does an entry of an index for
// a value that does not have the index key.
const (
	prefixValue           = 'v'
	prefixExpiry          = 'e'
	prefixIdempotency     = 'i'
	prefixIdempotencyTime = 'x'
	prefixIndex           = 'n'
	prefixIndexEntry      = 'q'

	recordFormat = 1
	instantSize  = 8
	indexIDSize  = 4
	lengthSize   = 2
)

// indexRecord is an index.
type indexRecord struct {
	Path      string     `cbor:"1,keyasint"`
	State     indexState `cbor:"2,keyasint"`
	ExpiresAt int64      `cbor:"3,keyasint"`           // nanoseconds since 1970
	Many      bool       `cbor:"4,keyasint,omitempty"` // it has held a value with many keys
	Keys      uint64     `cbor:"5,keyasint,omitempty"` // that building it has dealt with
	Cursor    []byte     `cbor:"6,keyasint,omitempty"` // the last of them
}

type indexState uint8

const (
	indexBuilding indexState = iota + 1 // it lacks keys after the cursor
	indexComplete
	indexRemoving // only its entries are left
)

// mark is a remembered idempotency key.
type mark struct {
	ExpiresAt int64 `cbor:"1,keyasint"`
}

var (
	encoding = must(cbor.EncOptions{}.UserBufferEncMode())
	decoding = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// buffers are what encode writes through.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encode returns the bytes of a record or mark whose variable part takes size bytes.
func encode(v any, size int) ([]byte, error) {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		// What was written is the caller's.
		*buf = bytes.Buffer{}
		buffers.Put(buf)
	}()
	*buf = *bytes.NewBuffer(make([]byte, 0, size+recordOverhead))
	buf.WriteByte(recordFormat)
	if err := encoding.MarshalToBuffer(v, buf); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return buf.Bytes(), nil
}

func decode(raw []byte, v any) error {
	switch {
	case len(raw) == 0:
		return errors.New("it is empty")
	case raw[0] != recordFormat:
		return fmt.Errorf("its format is %d, this build reads format %d", raw[0], recordFormat)
	}
	return decoding.Unmarshal(raw[1:], v)
}

func decodeMark(digest, raw []byte) (mark, error) {
	var m mark
	err := decode(raw, &m)
	if err == nil && m.ExpiresAt <= 0 {
		err = fmt.Errorf("end %d cannot be", m.ExpiresAt)
	}
	if err != nil {
		return mark{}, &statestore.DamagedError{Record: fmt.Sprintf("idempotency key with SHA-256 %x", digest), Err: err}
	}
	return m, nil
}

func etag(version uint64) string { return strconv.FormatUint(version, 10) }

func valueKey[K ~string | ~[]byte](buf []byte, key K) []byte {
	return append(append(buf[:0], prefixValue), key...)
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

// expired reports whether what expires at an instant (0: never) has expired by now.
func expired(instant int64, now time.Time) bool {
	return statestore.ExpiredAt(instantTime(instant), now)
}

// instantOf and instantTime map the zero time to 0 and back: never.
func instantOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func instantTime(instant int64) time.Time {
	if instant == 0 {
		return time.Time{}
	}
	return time.Unix(0, instant).UTC()
}
