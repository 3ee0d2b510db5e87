package etcdengine

import (
	"encoding/binary"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
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
// is set again, and swept when its instant has come. Nor does an entry of an index for a value that does not have the index
// key: a process that is killed may leave one behind (txn.late). An index's id is never given out again.
const (
	kindIncarnation = 'm'
	kindRegistry    = 'n'
	kindProgress    = 'p'
	kindSweeper     = 's'

	recordFormat = 1
)

// space names the keys of one bucket.
type space string

func (s space) key(kind byte, of string) string { return string(s) + string(rune(kind)) + of }

// after returns the first key of a kind that can stand behind that of another one, or of none.
func (s space) after(kind byte, of string) string { return s.key(kind, of+"\x00") }

// of is what a key has after its kind.
func (s space) of(k string) string { return k[len(s)+1:] }

// end is what a range over all keys of a kind ends before.
func (s space) end(kind byte) string { return s.key(kind+1, "") }

// timeKey is the key of an entry in time order; of is the state key or the digest.
func (s space) timeKey(kind byte, instant int64, of string) string {
	return string(s) + string(layout.TimeKey(kind, instant, of))
}

func indexID(id uint32) string { return string(binary.BigEndian.AppendUint32(nil, id)) }

func (s space) indexEntry(id uint32, indexKey []byte, key string) (k, v string) {
	entry, length := layout.IndexEntry(id, indexKey, []byte(key))
	return string(s) + string(entry), string(length)
}

// seal returns the record under k with that body.
func seal(k string, body []byte) string {
	return string(layout.Seal(recordFormat, k, append(make([]byte, layout.SealSize), body...)))
}

// encodeRecord returns the record of a set that takes effect.
func encodeRecord(k string, expires int64, set *statestore.Write) string {
	raw := make([]byte, layout.SealSize, layout.SealSize+layout.RecordHead+len(set.ContentType)+len(set.Value))
	return string(layout.Seal(recordFormat, k, layout.AppendRecord(raw, expires, set)))
}

// decodeRecord reads the record under k. Its bytes are those of raw.
func (s space) decodeRecord(k string, raw []byte) (r layout.Record, err error) {
	body, err := layout.Unseal(recordFormat, k, raw)
	if err == nil {
		r, err = layout.ParseRecord(body)
	}
	if err != nil {
		return layout.Record{}, layout.DamagedValue(s.of(k), err)
	}
	return r, nil
}

func encodeIdempotency(k string, expires int64) string {
	return string(layout.EncodeIdempotency(recordFormat, k, expires))
}

func (s space) decodeIdempotency(k string, raw []byte) (expires int64, err error) {
	return layout.DecodeIdempotency(recordFormat, k, s.of(k), raw)
}
