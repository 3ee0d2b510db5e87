package boltengine

import (
	"encoding/binary"
	"errors"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

const (
	recordFormat = 2
	versionSize  = 8
)

// record is a key's present version.
type record struct {
	version uint64 // 0: there is no record
	// Its bytes lie in the file: they are valid as long as those that they were decoded from.
	layout.Record
}

// encodeRecord returns the record of a set that takes effect.
func encodeRecord(k []byte, version uint64, expires int64, set *statestore.Write) []byte {
	raw := make([]byte, layout.SealSize, layout.SealSize+versionSize+layout.RecordHead+len(set.ContentType)+len(set.Value))
	raw = binary.BigEndian.AppendUint64(raw, version)
	return layout.Seal(recordFormat, k, layout.AppendRecord(raw, expires, set))
}

func decodeRecord(k, raw []byte) (r record, err error) {
	if isFormat1(raw) {
		r, err = decodeRecord1(raw)
	} else {
		r, err = decodeRecord2(k, raw)
	}
	if err == nil && r.version == 0 {
		err = errors.New("version 0 cannot be")
	}
	if err != nil {
		return record{}, layout.DamagedValue(k[1:], err)
	}
	return r, nil
}

func decodeRecord2(k, raw []byte) (r record, err error) {
	body, err := layout.Unseal(recordFormat, k, raw)
	if err != nil {
		return r, err
	}
	if len(body) < versionSize {
		return r, errors.New("it ends within its version")
	}
	r.version = binary.BigEndian.Uint64(body)
	r.Record, err = layout.ParseRecord(body[versionSize:])
	return r, err
}

func decodeIdempotency(k, raw []byte) (expires int64, err error) {
	if isFormat1(raw) {
		expires, err = decodeIdempotency1(raw)
		return layout.CheckIdempotency(k[1:], expires, err)
	}
	return layout.DecodeIdempotency(recordFormat, k, k[1:], raw)
}
