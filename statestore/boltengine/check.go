package boltengine

import (
	"bytes"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// Check calls problem for every record of state in the file that cannot be read.
func Check(tx *boltdb.Tx, problem func(error)) error {
	return tx.ForEach(func(name []byte, b *boltdb.Bucket) error {
		if !bytes.HasPrefix(name, []byte(boltdb.KindState+"/")) {
			return nil
		}
		return b.ForEach(func(k, raw []byte) error {
			if err := checkEntry(k, raw); err != nil {
				problem(fmt.Errorf("bucket %s: %w", name, err))
			}
			return nil
		})
	})
}

func checkEntry(k, raw []byte) (err error) {
	switch k[0] {
	case layout.KindValue:
		_, err = decodeRecord(k, raw)
	case layout.KindIdempotency:
		_, err = decodeIdempotency(k, raw)
	case kindIndex:
		err = new(indexRecord).decode(k, raw)
	case layout.KindExpiry, layout.KindIdempotencyTime:
		_, _, err = layout.ParseTimeKey(k)
	case layout.KindIndexEntry:
		if _, _, ok := layout.ParseIndexEntry(k, raw); !ok {
			err = fmt.Errorf("entry %q of an index has not the form of one", k)
		}
	default:
		err = fmt.Errorf("key %q is of no kind that there is", k)
	}
	return err
}
