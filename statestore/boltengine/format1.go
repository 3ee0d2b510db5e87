package boltengine

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// format1 begins the records that files of before format 3 hold: a CBOR map follows, without a checksum. They are read as
// they are, and written anew when their key is.
const format1 = 1

func isFormat1(raw []byte) bool { return len(raw) > 1 && raw[0] == format1 }

func decodeRecord1(k, raw []byte) (record, error) {
	var r struct {
		Version     uint64 `cbor:"1,keyasint"`
		Expires     int64  `cbor:"2,keyasint"`
		ContentType string `cbor:"3,keyasint"`
		Value       []byte `cbor:"4,keyasint"`
	}
	err := cbor.Unmarshal(raw[1:], &r)
	if err == nil && (r.Version == 0 || r.Expires < 0) {
		err = fmt.Errorf("version %d, expiry %d: that cannot be", r.Version, r.Expires)
	}
	if err != nil {
		return record{}, damagedKey(k, err)
	}
	return record{r.Version, r.Expires, []byte(r.ContentType), r.Value}, nil
}

func decodeIdempotency1(raw []byte) (expires int64, err error) {
	var r struct {
		Expires int64 `cbor:"1,keyasint"`
	}
	err = cbor.Unmarshal(raw[1:], &r)
	return r.Expires, err
}
