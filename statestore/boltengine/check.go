package boltengine

import (
	"bytes"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
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
	case prefixValue:
		_, err = decodeRecord(k, raw)
	case prefixIdempotency:
		_, err = decodeIdempotency(k, raw)
	case prefixIndex:
		err = new(indexRecord).decode(k, raw)
	case prefixExpiry, prefixIdempotencyTime:
		_, _, err = parseTimeKey(k)
	case prefixIndexEntry:
		if _, _, ok := parseIndexEntry(k, raw); !ok {
			err = fmt.Errorf("entry %q of an index has not the form of one", k)
		}
	default:
		err = fmt.Errorf("key %q is of no kind that there is", k)
	}
	return err
}
