// Package boltengine keeps state in a bbolt file.
package boltengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

type engine struct {
	db          *boltdb.DB
	name        boltdb.Namespace
	incarnation string
	// sweptTo is where the last sweep has ended, if there is more: what it has deleted need not be passed once more.
	sweptTo []byte
}

var _ statestore.Engine = (*engine)(nil)

// New returns the engine for a bucket of db, which it creates if it is missing. It does not own db. Engines
// of the same db and bucket share their data.
func New(db *boltdb.DB, name string) (statestore.Engine, error) {
	if name == "" || len(name) > boltdb.MaxNamespaceName {
		return nil, &invalid.Error{Field: "bucket", Value: fmt.Sprintf("of %d bytes", len(name)),
			Allowed: fmt.Sprintf("1 to %d bytes long", boltdb.MaxNamespaceName)}
	}
	e := &engine{db: db, name: boltdb.NewNamespace(boltdb.KindState, name), incarnation: db.Incarnation()}
	err := e.view(func(bucket) error { return nil })
	if err != nil { // most likely there is none
		err = db.Update(context.Background(), func(tx *boltdb.Tx) error {
			_, err := e.name.Create(tx)
			return boltdb.Dirty(err)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open state bucket %q: %w", name, err)
	}
	return e, nil
}

// bucket is the engine's bucket in a transaction.
type bucket struct {
	*boltdb.Bucket
	incarnation string // of the file
}

func (e *engine) view(fn func(b bucket) error) error {
	return e.db.View(func(tx *boltdb.Tx) error { return e.in(tx, fn) })
}

// errNothing ends a write function that wrote nothing and has no success to report either, so that no commit is spent
// on it.
var errNothing = errors.New("nothing to write")

func (e *engine) update(ctx context.Context, how func(context.Context, func(*boltdb.Tx) error) error, fn func(b bucket) error) error {
	err := how(ctx, func(tx *boltdb.Tx) error { return e.in(tx, fn) })
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

func (e *engine) in(tx *boltdb.Tx, fn func(b bucket) error) error {
	b := e.name.In(tx)
	if b == nil {
		return fmt.Errorf("the file has no state bucket %q", e.name.Name())
	}
	return fn(bucket{b, e.incarnation})
}

// walk shows the keys from one on that begin with its first bytes, so many of them, in their order.
func (b bucket) walk(from []byte, same int) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		c := b.Cursor()
		for k, v := c.Seek(from); bytes.HasPrefix(k, from[:same]) && yield(k, v); k, v = c.Next() {
		}
	}
}

// after returns the first key that can stand behind k.
func after(k []byte) []byte { return append(k, 0) }

// etag names a version. Versions go on from where they were when a backup is put back; the incarnation does not.
func (b bucket) etag(version uint64) string {
	var buf [64]byte
	return string(strconv.AppendUint(append(append(buf[:0], b.incarnation...), '-'), version, 10))
}

// Get implements statestore.Engine.
func (e *engine) Get(ctx context.Context, keys []string, room int, now time.Time) ([]statestore.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	items := make([]statestore.Item, len(keys))
	err := e.view(func(b bucket) error {
		left := room
		for i, key := range keys {
			items[i] = b.get(key, left, now)
			left -= items[i].Size()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

// get returns the key's Item, which belongs to the caller.
func (b bucket) get(key string, room int, now time.Time) statestore.Item {
	k := valueKey(key)
	raw := b.Get(k)
	if raw == nil {
		return statestore.Item{Key: key}
	}
	item := b.item(key, k, raw, room, now)
	item.Value = bytes.Clone(item.Value)
	return item
}

// item makes an Item of the record under k. Its Value lies in the file.
func (b bucket) item(key string, k, raw []byte, room int, now time.Time) statestore.Item {
	r, err := decodeRecord(k, raw)
	if err != nil {
		return statestore.Item{Key: key, Err: err}
	}
	if statestore.ExpiredInstant(r.Expires, now) {
		return statestore.Item{Key: key}
	}
	return r.Item(key, b.etag(r.version), room)
}

// Apply implements statestore.Engine.
func (e *engine) Apply(ctx context.Context, transactions []statestore.Transaction, now func() time.Time) ([]error, error) {
	var outcomes []error
	err := e.update(ctx, e.db.Update, func(b bucket) error {
		p := newPlan(b, now())
		outcomes = make([]error, len(transactions))
		failed := 0
		for i := range transactions {
			if outcomes[i] = p.take(&transactions[i]); outcomes[i] != nil {
				failed++
			}
		}
		// A transaction that changes nothing, such as one whose idempotency key is remembered, may owe its success to
		// a neighbour in this commit: it succeeds only if the commit does.
		if failed == len(transactions) {
			return errNothing
		}
		changes, err := p.changes()
		if err != nil {
			return err
		}
		return boltdb.Dirty(p.write(changes))
	})
	if err != nil {
		return nil, err
	}
	return outcomes, nil
}
