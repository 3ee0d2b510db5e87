package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// SealSize is what every record begins with, in bytes: format and checksum.
const SealSize = 1 + crc32.Size

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum includes the key: a record that came to lie under another one is damaged, too.
func checksum[K ~string | ~[]byte](k K, body []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(k), castagnoli), castagnoli, body)
}

// Seal completes the record under k, whose body stands in raw after SealSize bytes.
func Seal[K ~string | ~[]byte](format byte, k K, raw []byte) []byte {
	raw[0] = format
	binary.BigEndian.PutUint32(raw[1:], checksum(k, raw[SealSize:]))
	return raw
}

// Unseal verifies the record under k and returns its body.
func Unseal[K ~string | ~[]byte](format byte, k K, raw []byte) ([]byte, error) {
	switch {
	case len(raw) == 0:
		return nil, errors.New("it is empty")
	case raw[0] != format:
		return nil, fmt.Errorf("its format is %d, this build reads format %d", raw[0], format)
	case len(raw) < SealSize:
		return nil, fmt.Errorf("it has %d bytes, want at least %d", len(raw), SealSize)
	}
	body := raw[SealSize:]
	if want, got := binary.BigEndian.Uint32(raw[1:]), checksum(k, body); got != want {
		return nil, fmt.Errorf("its checksum is %08x, its bytes have %08x", want, got)
	}
	return body, nil
}

// Record is what was set under a key.
type Record struct {
	Expires int64 // statestore.InstantOf
	// ContentType and Value are valid as long as the bytes that they were parsed from.
	ContentType, Value []byte
}

// RecordHead is what a Record has before the content type, in bytes: instant and length.
const RecordHead = InstantSize + lengthSize

// AppendRecord appends the Record of a set that takes effect.
func AppendRecord(body []byte, expires int64, set *statestore.Write) []byte {
	body = binary.BigEndian.AppendUint64(body, uint64(expires))
	body = binary.BigEndian.AppendUint16(body, uint16(len(set.ContentType)))
	return append(append(body, set.ContentType...), set.Value...)
}

// ParseRecord is the reverse of AppendRecord.
func ParseRecord(body []byte) (Record, error) {
	if len(body) < RecordHead {
		return Record{}, fmt.Errorf("it ends within its first %d bytes", RecordHead)
	}
	expires, n := int64(binary.BigEndian.Uint64(body)), int(binary.BigEndian.Uint16(body[InstantSize:]))
	rest := body[RecordHead:]
	if expires < 0 || n > len(rest) {
		return Record{}, fmt.Errorf("expiry %d, content type of %d bytes: that cannot be", expires, n)
	}
	return Record{expires, rest[:n], rest[n:]}, nil
}

// Item makes an Item of the record, whose Value is the record's, or one with ErrNoRoom if that takes more than room.
func (r *Record) Item(key, etag string, room int) statestore.Item {
	item := statestore.Item{
		Key:         key,
		Found:       true,
		Value:       r.Value,
		ETag:        etag,
		ContentType: string(r.ContentType),
		Expires:     statestore.InstantTime(r.Expires),
	}
	if item.Size() > room {
		return statestore.Item{Key: key, Err: statestore.ErrNoRoom}
	}
	return item
}

// DamagedValue says why the record of a key cannot be read.
func DamagedValue[K ~string | ~[]byte](key K, err error) error {
	return &statestore.DamagedError{Record: fmt.Sprintf("value of key %q", string(key)), Err: err}
}

// EncodeIdempotency returns the record of an idempotency key, which lies under k.
func EncodeIdempotency[K ~string | ~[]byte](format byte, k K, expires int64) []byte {
	return Seal(format, k, binary.BigEndian.AppendUint64(make([]byte, SealSize, SealSize+InstantSize), uint64(expires)))
}

// DecodeIdempotency is the reverse of EncodeIdempotency, for the digest of the idempotency key.
func DecodeIdempotency[K ~string | ~[]byte](format byte, k, digest K, raw []byte) (expires int64, err error) {
	body, err := Unseal(format, k, raw)
	if err == nil && len(body) != InstantSize {
		err = fmt.Errorf("it has %d bytes, want %d", len(raw), SealSize+InstantSize)
	}
	if err == nil {
		expires = int64(binary.BigEndian.Uint64(body))
	}
	return CheckIdempotency(digest, expires, err)
}

// CheckIdempotency returns what was read of an idempotency key unless that cannot be.
func CheckIdempotency[K ~string | ~[]byte](digest K, expires int64, err error) (int64, error) {
	if err == nil && expires <= 0 {
		err = fmt.Errorf("expiry %d cannot be", expires)
	}
	if err != nil {
		return 0, &statestore.DamagedError{Record: fmt.Sprintf("idempotency key with SHA-256 %x", digest), Err: err}
	}
	return expires, nil
}
