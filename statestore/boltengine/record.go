package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

const (
	recordFormat = 2
	// sealSize is what every record begins with, in bytes: format and checksum.
	sealSize = 1 + crc32.Size
	// valueHead is what a value's record has before the content type, in bytes: version, instant, length.
	valueHead = sealSize + 8 + instantSize + lengthSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum includes the key: a record that came to lie under another one is damaged, too.
func checksum(k, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, body)
}

// seal completes the record under k, whose body stands in raw after sealSize bytes.
func seal(k, raw []byte) []byte {
	raw[0] = recordFormat
	binary.BigEndian.PutUint32(raw[1:], checksum(k, raw[sealSize:]))
	return raw
}

// unseal verifies the record under k and returns its body.
func unseal(k, raw []byte) ([]byte, error) {
	switch {
	case len(raw) == 0:
		return nil, errors.New("it is empty")
	case raw[0] != recordFormat:
		return nil, fmt.Errorf("its format is %d, this build reads format %d", raw[0], recordFormat)
	case len(raw) < sealSize:
		return nil, fmt.Errorf("it has %d bytes, want at least %d", len(raw), sealSize)
	}
	body := raw[sealSize:]
	if want, got := binary.BigEndian.Uint32(raw[1:]), checksum(k, body); got != want {
		return nil, fmt.Errorf("its checksum is %08x, its bytes have %08x", want, got)
	}
	return body, nil
}

// record is a key's present version.
type record struct {
	version uint64 // 0: there is no record
	expires int64  // nanoseconds since 1970; 0: never
	// contentType and value lie in the file: they are valid as long as the bytes that they were decoded from.
	contentType, value []byte
}

// encodeRecord returns the record of a set that takes effect.
func encodeRecord(k []byte, version uint64, expires int64, set *statestore.Write) []byte {
	raw := make([]byte, sealSize, valueHead+len(set.ContentType)+len(set.Value))
	raw = binary.BigEndian.AppendUint64(raw, version)
	raw = binary.BigEndian.AppendUint64(raw, uint64(expires))
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(set.ContentType)))
	raw = append(append(raw, set.ContentType...), set.Value...)
	return seal(k, raw)
}

func decodeRecord(k, raw []byte) (record, error) {
	if isFormat1(raw) {
		return decodeRecord1(k, raw)
	}
	body, err := unseal(k, raw)
	if err != nil {
		return record{}, damagedKey(k, err)
	}
	const head = valueHead - sealSize
	if len(body) < head {
		return record{}, damagedKey(k, fmt.Errorf("it has %d bytes, want at least %d", len(raw), valueHead))
	}
	r := record{version: binary.BigEndian.Uint64(body), expires: int64(binary.BigEndian.Uint64(body[8:]))}
	n := int(binary.BigEndian.Uint16(body[8+instantSize:]))
	if r.version == 0 || r.expires < 0 || n > len(body)-head {
		return record{}, damagedKey(k, fmt.Errorf("version %d, expiry %d, content type of %d bytes: that cannot be", r.version, r.expires, n))
	}
	r.contentType, r.value = body[head:head+n], body[head+n:]
	return r, nil
}

func damagedKey(k []byte, err error) error {
	return &statestore.DamagedError{Record: fmt.Sprintf("value of key %q", string(k[1:])), Err: err}
}

// item copies the record, or returns an item with ErrNoRoom if that takes more than room.
func (r *record) item(key, etag string, room int) statestore.Item {
	item := statestore.Item{
		Key:         key,
		Found:       true,
		Value:       r.value,
		ETag:        etag,
		ContentType: string(r.contentType),
		Expires:     statestore.InstantTime(r.expires),
	}
	if item.Size() > room {
		return statestore.Item{Key: key, Err: statestore.ErrNoRoom}
	}
	item.Value = bytes.Clone(r.value)
	return item
}

// encodeIdempotency returns the record of an idempotency key.
func encodeIdempotency(k []byte, expires int64) []byte {
	return seal(k, binary.BigEndian.AppendUint64(make([]byte, sealSize, sealSize+instantSize), uint64(expires)))
}

func decodeIdempotency(k, raw []byte) (expires int64, err error) {
	var body []byte
	if isFormat1(raw) {
		expires, err = decodeIdempotency1(raw)
	} else if body, err = unseal(k, raw); err == nil && len(body) != instantSize {
		err = fmt.Errorf("it has %d bytes, want %d", len(raw), sealSize+instantSize)
	} else if err == nil {
		expires = int64(binary.BigEndian.Uint64(body))
	}
	if err == nil && expires <= 0 {
		err = fmt.Errorf("expiry %d cannot be", expires)
	}
	if err != nil {
		return 0, &statestore.DamagedError{Record: fmt.Sprintf("idempotency key with SHA-256 %x", k[1:]), Err: err}
	}
	return expires, nil
}
