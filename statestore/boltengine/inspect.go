package boltengine

import (
	"bytes"
	"context"
	"math"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// Walk implements statestore.Inspector.
func (e *engine) Walk(ctx context.Context, from string, now time.Time, visit func(item statestore.Item) bool) error {
	return e.view(func(b bucket) error {
		for k, v := range b.walk(valueKey(from), 1) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !visit(b.item(string(k[1:]), k, v, math.MaxInt, now)) {
				return nil
			}
		}
		return nil
	})
}

// IdempotencyKeys implements statestore.Inspector.
func (e *engine) IdempotencyKeys(ctx context.Context, last []byte, limit int) (keys []statestore.IdempotencyKey, err error) {
	err = e.view(func(b bucket) error {
		for k, v := range b.walk(after(idempotencyKey(last)), 1) {
			if len(keys) == limit {
				break
			}
			// One that cannot be read is removed when it is over, and has no time until then.
			expires, _ := decodeIdempotency(k, v)
			keys = append(keys, statestore.IdempotencyKey{SHA256: bytes.Clone(k[1:]), Expires: statestore.InstantTime(expires)})
		}
		return ctx.Err()
	})
	return keys, err
}

// IndexStates implements statestore.Inspector.
func (e *engine) IndexStates(ctx context.Context) (states []statestore.IndexState, err error) {
	err = e.view(func(b bucket) error {
		for _, x := range b.indexes((*index).kept) {
			states = append(states, statestore.IndexState{
				Path: x.Path, Complete: x.complete(), Keys: x.Keys, ManyKeys: x.Many, Expires: statestore.InstantTime(x.Expires),
			})
		}
		return ctx.Err()
	})
	return states, err
}

// clearOrder is the order in which Clear removes records: what one without the other would be in the way comes first.
var clearOrder = []byte{layout.KindValue, layout.KindExpiry, layout.KindIdempotency, layout.KindIdempotencyTime, layout.KindIndexEntry, kindIndex}

// Clear implements statestore.Inspector. The bucket's counter of versions stays.
func (e *engine) Clear(ctx context.Context, limit int) (more bool, err error) {
	err = e.update(ctx, e.db.Update, func(b bucket) error {
		more = false
		var c changes
		for _, prefix := range clearOrder {
			for k := range b.walk([]byte{prefix}, 1) {
				if more = len(c) == limit; more {
					return boltdb.Dirty(c.write(b))
				}
				c.delete(bytes.Clone(k))
			}
		}
		if len(c) == 0 {
			return errNothing
		}
		return boltdb.Dirty(c.write(b))
	})
	return more, err
}
