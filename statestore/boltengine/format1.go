package boltengine

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// format1 begins the records that files of before format 3 hold: a CBOR map follows, without a checksum. They are read as
// they are, and written anew when their key is.
const format1 = 1

func isFormat1(raw []byte) bool { return len(raw) > 1 && raw[0] == format1 }

func decodeRecord1(raw []byte) (record, error) {
	var r struct {
		Version     uint64 `cbor:"1,keyasint"`
		Expires     int64  `cbor:"2,keyasint"`
		ContentType string `cbor:"3,keyasint"`
		Value       []byte `cbor:"4,keyasint"`
	}
	err := cbor.Unmarshal(raw[1:], &r)
	if err == nil && r.Expires < 0 {
		err = fmt.Errorf("expiry %d cannot be", r.Expires)
	}
	return record{r.Version, layout.Record{Expires: r.Expires, ContentType: []byte(r.ContentType), Value: r.Value}}, err
}

func decodeIdempotency1(raw []byte) (expires int64, err error) {
	var r struct {
		Expires int64 `cbor:"1,keyasint"`
	}
	err = cbor.Unmarshal(raw[1:], &r)
	return r.Expires, err
}
