// Package boltengine keeps topics, consumer groups and dead letters in a bucket of a bbolt file. layout.go draws what lies
// there; each other file is about one part of it.
package boltengine

import (
	"context"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// refusal is an error that came before any write.
type refusal struct{ error }

// Engine implements pubsub.Engine on one bucket of a file.
type Engine struct {
	db     *boltdb.DB
	bucket boltdb.Namespace
	ageing retryScan
	counts tally

	// The rest is the writer's alone. tx is the write transaction that runs, or the last one if it was rolled back, and
	// writing its buckets.
	dedup   dedupIndex
	tx      *boltdb.Tx
	writing *buckets
}

var _ pubsub.Engine = (*Engine)(nil)

// New opens the bucket of db, makes it if it is missing, and loads the ids that are still remembered. The engine is to be
// used no longer than db is open.
func New(ctx context.Context, db *boltdb.DB, bucket string) (*Engine, error) {
	e, err := NewAtRest(ctx, db, bucket)
	if err != nil {
		return nil, err
	}
	err = e.read(func(b *buckets) error {
		if b.top.Get(keyCopyOf) != nil {
			return fmt.Errorf("open pub/sub bucket %q: %w", bucket, pubsub.ErrUnfinishedCopy)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// NewAtRest is New for a pubsub.Migrator, which may be an unfinished copy.
func NewAtRest(ctx context.Context, db *boltdb.DB, bucket string) (*Engine, error) {
	e := &Engine{db: db, bucket: boltdb.NewNamespace(boltdb.KindPubSub, bucket), counts: tally{n: map[counted]int64{}}}
	err := db.Update(ctx, func(tx *boltdb.Tx) error {
		top := e.bucket.In(tx)
		if top == nil {
			var err error
			if top, err = e.bucket.Create(tx); err == nil {
				err = top.Put(keyLayout, layout)
			}
			if err != nil {
				return boltdb.Dirty(err)
			}
		}
		for _, name := range allBuckets {
			if _, err := top.CreateBucketIfNotExists(name); err != nil {
				return boltdb.Dirty(err)
			}
		}
		return nil
	})
	for _, prepare := range []func(context.Context) error{e.upgrade, e.loadDedup, e.loadCounts} {
		if err == nil {
			err = prepare(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open pub/sub bucket %q: %w", bucket, err)
	}
	return e, nil
}

// read runs fn on a snapshot.
func (e *Engine) read(fn func(b *buckets) error) error {
	return e.db.View(func(tx *boltdb.Tx) error { return fn(e.in(tx)) })
}

// update runs fn in a shared write transaction, whose sync is left out where nobody has written. fn may return a refusal as
// long as it has written nothing; any other error is taken to have come after a write.
func (e *Engine) update(ctx context.Context, fn func(b *buckets) error) error {
	return e.db.Update(ctx, e.joining(fn))
}

// updateDeferred is update for what nobody waits for.
func (e *Engine) updateDeferred(ctx context.Context, fn func(b *buckets) error) error {
	return e.db.UpdateDeferred(ctx, e.joining(fn))
}

func (e *Engine) joining(fn func(b *buckets) error) func(tx *boltdb.Tx) error {
	return func(tx *boltdb.Tx) error {
		err := fn(e.join(tx))
		if refused, ok := err.(refusal); ok {
			return refused.error
		}
		return boltdb.Dirty(err)
	}
}

// join returns the buckets that all functions of a write transaction share.
func (e *Engine) join(tx *boltdb.Tx) *buckets {
	if e.tx != tx {
		b := e.in(tx)
		b.known = map[string]topicRecord{}
		e.tx, e.writing = tx, b
		tx.BeforeCommit(b.finish)
		tx.OnCommit(func() {
			e.dedup.commit(&b.dedup)
			e.counts.commit(b.counted)
			e.tx, e.writing = nil, nil
		})
	}
	return e.writing
}
