package etcdengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// What a bucket looks like in etcd: keys that begin with the bucket's prefix and one byte that says of what kind they are.
//
//	'v' key                 → record     a key's present version: instant of its expiry (0: none), length of its content
//	                                     type, content type, value
//	'e' instant key         → (empty)    the keys that expire, in time order
//	'i' SHA-256             → record     an idempotency key that is remembered: the instant of its expiry
//	'x' instant SHA-256     → (empty)    the idempotency keys, in the time order of their expiry
//	'm'                     → text       the bucket's random number, which its ETags depend on
//	'n'                     → registry   the indexes: CBOR, as registry has them
//	'p' id                  → progress   how far the building of an index has come: CBOR
//	'q' id indexkey key     → length     that a value has the index key (statestore.IndexKeys) in an index, and how many
//	                                     bytes of the entry's key the index key takes
//	's'                     → (empty)    who has it sweeps; it hangs on a lease
//
// A record begins with a format byte and the CRC-32C of its key and of all that follows the checksum. An instant is
// nanoseconds since 1970, UTC, and takes 8 bytes, an index's id 4, a length 2; all are big-endian.
//
// An entry in time order without a record that expires at that very instant means nothing: it is left behind when the key
// is set again, and swept when its instant has come. An index's id is never given out again.
const (
	kindValue           = 'v'
	kindExpiry          = 'e'
	kindIdempotency     = 'i'
	kindIdempotencyTime = 'x'
	kindIncarnation     = 'm'
	kindRegistry        = 'n'
	kindProgress        = 'p'
	kindIndexEntry      = 'q'
	kindSweeper         = 's'

	instantSize = 8
	indexIDSize = 4
	lengthSize  = 2

	recordFormat = 1
	// sealSize is what every record begins with, in bytes: format and checksum.
	sealSize = 1 + crc32.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// space names the keys of one bucket.
type space string

func (s space) key(kind byte, of string) string { return string(s) + string(rune(kind)) + of }

// end is what a range over all keys of a kind ends before.
func (s space) end(kind byte) string { return s.key(kind+1, "") }

// timeKey is the key of an entry in time order; of is the state key or the digest.
func (s space) timeKey(kind byte, instant int64, of string) string {
	var b [instantSize]byte
	binary.BigEndian.PutUint64(b[:], uint64(instant))
	return s.key(kind, string(b[:])+of)
}

// parseTimeKey takes a timeKey apart.
func (s space) parseTimeKey(k string) (instant int64, of string, err error) {
	rest := k[len(s)+1:]
	if len(rest) <= instantSize {
		return 0, "", fmt.Errorf("an entry in time order has %d bytes, want more than %d", len(rest), instantSize)
	}
	n := binary.BigEndian.Uint64([]byte(rest[:instantSize]))
	if n > math.MaxInt64 {
		return 0, "", fmt.Errorf("an entry in time order has the instant %d, want at most %d", n, int64(math.MaxInt64))
	}
	return int64(n), rest[instantSize:], nil
}

func indexID(id uint32) string {
	var b [indexIDSize]byte
	binary.BigEndian.PutUint32(b[:], id)
	return string(b[:])
}

func (s space) indexEntry(id uint32, indexKey []byte, key string) (k, v string) {
	var length [lengthSize]byte
	binary.BigEndian.PutUint16(length[:], uint16(len(indexKey)))
	return s.key(kindIndexEntry, indexID(id)+string(indexKey)+key), string(length[:])
}

// parseIndexEntry takes an entry apart; ok is false if it has not the form of one.
func (s space) parseIndexEntry(k, v []byte) (indexKey []byte, key string, ok bool) {
	head := len(s) + 1 + indexIDSize
	if len(v) != lengthSize {
		return nil, "", false
	}
	n := int(binary.BigEndian.Uint16(v))
	if n == 0 || len(k) <= head+n {
		return nil, "", false
	}
	return k[head : head+n], string(k[head+n:]), true
}

// seal returns the record under k with that body.
func seal(k string, body []byte) string {
	raw := make([]byte, sealSize, sealSize+len(body))
	raw[0] = recordFormat
	binary.BigEndian.PutUint32(raw[1:], checksum(k, body))
	return string(append(raw, body...))
}

// unseal verifies the record under k and returns its body.
func unseal(k string, raw []byte) ([]byte, error) {
	switch {
	case len(raw) < sealSize:
		return nil, fmt.Errorf("it has %d bytes, want at least %d", len(raw), sealSize)
	case raw[0] != recordFormat:
		return nil, fmt.Errorf("its format is %d, this build reads format %d", raw[0], recordFormat)
	}
	body := raw[sealSize:]
	if want, got := binary.BigEndian.Uint32(raw[1:]), checksum(k, body); got != want {
		return nil, fmt.Errorf("its checksum is %08x, its bytes have %08x", want, got)
	}
	return body, nil
}

func checksum(k string, body []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(k), castagnoli), castagnoli, body)
}

// record is a key's present version.
type record struct {
	expires            int64 // nanoseconds since 1970; 0: never
	contentType, value []byte
}

// recordHead is what a record's body has before the content type, in bytes.
const recordHead = instantSize + lengthSize

// encodeRecord returns the record of a set that takes effect.
func encodeRecord(k string, expires int64, set *statestore.Write) string {
	var b strings.Builder
	b.Grow(sealSize + recordHead + len(set.ContentType) + len(set.Value))
	head := make([]byte, 0, recordHead+len(set.ContentType))
	head = binary.BigEndian.AppendUint64(head, uint64(expires))
	head = binary.BigEndian.AppendUint16(head, uint16(len(set.ContentType)))
	head = append(head, set.ContentType...)
	sum := crc32.Update(checksum(k, head), castagnoli, set.Value)
	b.WriteByte(recordFormat)
	b.Write(binary.BigEndian.AppendUint32(nil, sum))
	b.Write(head)
	b.Write(set.Value)
	return b.String()
}

// decodeRecord reads the record of a state key, which is stored under k. Its bytes are those of raw.
func decodeRecord(key, k string, raw []byte) (record, error) {
	body, err := unseal(k, raw)
	if err == nil && len(body) < recordHead {
		err = fmt.Errorf("it has %d bytes, want at least %d", len(raw), sealSize+recordHead)
	}
	if err != nil {
		return record{}, damagedKey(key, err)
	}
	r := record{expires: int64(binary.BigEndian.Uint64(body))}
	n := int(binary.BigEndian.Uint16(body[instantSize:]))
	if r.expires < 0 || n > len(body)-recordHead {
		return record{}, damagedKey(key, fmt.Errorf("expiry %d, content type of %d bytes: that cannot be", r.expires, n))
	}
	r.contentType, r.value = body[recordHead:recordHead+n], body[recordHead+n:]
	return r, nil
}

func damagedKey(key string, err error) error {
	return &statestore.DamagedError{Record: fmt.Sprintf("value of key %q", key), Err: err}
}

func encodeIdempotency(k string, expires int64) string {
	return seal(k, binary.BigEndian.AppendUint64(nil, uint64(expires)))
}

func decodeIdempotency(digest, k string, raw []byte) (expires int64, err error) {
	body, err := unseal(k, raw)
	if err == nil && len(body) != instantSize {
		err = fmt.Errorf("it has %d bytes, want %d", len(raw), sealSize+instantSize)
	}
	if err == nil {
		if expires = int64(binary.BigEndian.Uint64(body)); expires <= 0 {
			err = errors.New("an expiry of 0 or less cannot be")
		}
	}
	if err != nil {
		return 0, &statestore.DamagedError{Record: fmt.Sprintf("idempotency key with SHA-256 %x", digest), Err: err}
	}
	return expires, nil
}
