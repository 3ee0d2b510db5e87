package boltengine

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// AddIdempotencyKeys implements statestore.Engine.
func (e *engine) AddIdempotencyKeys(ctx context.Context, keys []statestore.IdempotencyKey) error {
	return e.update(ctx, e.db.Update, func(b bucket) error {
		p := newPlan(b, statestore.InstantTime(1))
		for _, k := range keys {
			if len(k.SHA256) != sha256.Size {
				return fmt.Errorf("idempotency key %x: it is no SHA-256", k.SHA256)
			}
			id, err := p.id([sha256.Size]byte(k.SHA256))
			if err != nil {
				return err
			}
			if id.until == 0 {
				id.until = statestore.InstantOf(k.Expires)
			}
		}
		c, err := p.changes()
		if err != nil {
			return err
		}
		if len(c) == 0 {
			return errNothing
		}
		return boltdb.Dirty(p.write(c))
	})
}
