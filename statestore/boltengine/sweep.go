package boltengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Sweep implements statestore.Engine. Its commits wait for others to ride along with.
func (e *engine) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	idle := false
	err := e.db.View(func(tx *bbolt.Tx) error {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		idle = len(ended(ns, prefixExpiry, now, 1))+len(ended(ns, prefixIdempotencyTime, now, 1))+len(endedIndexes(ns, now)) == 0
		return nil
	})
	if err != nil || idle {
		return 0, err
	}
	var swept int
	var damage error
	err = e.db.UpdateLazily(ctx, func(tx *bbolt.Tx) error {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		keys := ended(ns, prefixExpiry, now, limit)
		marks := ended(ns, prefixIdempotencyTime, now, limit-len(keys))
		swept, damage = len(keys)+len(marks), nil
		// All reads come before the first write: bbolt's bytes do not outlive it.
		indexes := keptIndexes(ns.Cursor())
		var doomed [][]byte
		for _, k := range keys {
			target, err := endedValue(ns, k)
			doomed, damage = doom(doomed, k, target), errors.Join(damage, err)
			if target != nil {
				for _, change := range replaced(indexes, target[1:], storedValue(ns.Get(target)), nil) {
					doomed = append(doomed, change.k)
				}
			}
		}
		for _, k := range marks {
			target, err := endedMark(ns, k)
			doomed, damage = doom(doomed, k, target), errors.Join(damage, err)
		}
		for _, k := range doomed {
			if err := ns.Delete(k); err != nil {
				return boltdb.Dirty(err)
			}
		}
		for _, x := range endedIndexes(ns, now) {
			if swept >= limit {
				break
			}
			n, err := x.remove(ns, limit-swept)
			if err != nil {
				return boltdb.Dirty(err)
			}
			swept += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("sweep state: %w", err)
	}
	return swept, damage
}

func doom(doomed [][]byte, entry, target []byte) [][]byte {
	if target != nil {
		doomed = append(doomed, target)
	}
	return append(doomed, entry)
}

// ended returns copies of the first entries in time order, up to limit, that are over by now.
func ended(ns *bbolt.Bucket, prefix byte, now time.Time, limit int) [][]byte {
	var keys [][]byte
	c := ns.Cursor()
	for k, _ := c.Seek([]byte{prefix}); len(keys) < limit && len(k) > 0 && k[0] == prefix; k, _ = c.Next() {
		// A malformed entry can only be removed.
		if instant, _, err := parseTimeKey(k); err == nil && statestore.Live(instantTime(instant), now) {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// endedValue returns the key of the record that the entry in time order speaks of, or nil if there is none: the key was
// set anew or deleted since.
func endedValue(ns *bbolt.Bucket, entry []byte) ([]byte, error) {
	instant, key, err := parseTimeKey(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", statestore.ErrDamaged, err)
	}
	target := valueKey(nil, string(key))
	raw := ns.Get(target)
	if raw == nil {
		return nil, nil
	}
	r, err := decodeRecord(key, raw)
	if err != nil || r.ExpiresAt != instant {
		return nil, err
	}
	return target, nil
}

// endedMark is endedValue for idempotency keys. A damaged mark goes too: it has one entry in time order, which says that
// it is over, and would otherwise stand in the way of its key for ever.
func endedMark(ns *bbolt.Bucket, entry []byte) ([]byte, error) {
	instant, digest, err := parseTimeKey(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", statestore.ErrDamaged, err)
	}
	target := append([]byte{prefixIdempotency}, digest...)
	raw := ns.Get(target)
	if raw == nil {
		return nil, nil
	}
	m, err := decodeMark(digest, raw)
	if err == nil && m.ExpiresAt != instant {
		return nil, nil
	}
	return target, err
}
