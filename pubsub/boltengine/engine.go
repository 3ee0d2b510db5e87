// Package boltengine keeps topics, consumer groups and dead letters in a bucket of a bbolt file.
package boltengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// errUnchanged leaves a transaction without a write, and so without a sync.
var errUnchanged = errors.New("nothing to write")

// refusal is an error that came before any write.
type refusal struct{ error }

// Engine implements pubsub.Engine on one namespace of a file.
type Engine struct {
	db     *boltdb.DB
	bucket boltdb.Namespace
	seen   seenIDs
	aging  aging
	// duplicates that were dropped and events that expired are counted since the engine was opened.
	duplicates counter[string]
	expired    counter[groupName]

	// tx is the write transaction that runs, or the last one if it was rolled back, and writing its buckets. They are the
	// writer's alone.
	tx      *boltdb.Tx
	writing *buckets
}

var _ pubsub.Engine = (*Engine)(nil)

// New opens the namespace bucket of db, makes it if it is missing, and loads the ids that are still remembered. The
// engine is to be used no longer than db is open.
func New(ctx context.Context, db *boltdb.DB, bucket string) (*Engine, error) {
	e := &Engine{db: db, bucket: boltdb.NewNamespace(boltdb.KindPubSub, bucket)}
	err := db.Update(ctx, func(tx *boltdb.Tx) error {
		namespace, err := e.bucket.Create(tx)
		if err != nil {
			return boltdb.Dirty(err)
		}
		for _, name := range allBuckets {
			if _, err := namespace.CreateBucketIfNotExists(name); err != nil {
				return boltdb.Dirty(err)
			}
		}
		return nil
	})
	if err == nil {
		err = e.loadSeen(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open pub/sub namespace %q: %w", bucket, err)
	}
	return e, nil
}

// read runs fn on a snapshot.
func (e *Engine) read(fn func(b *buckets) error) error {
	return e.db.View(func(tx *boltdb.Tx) error { return fn(e.in(tx)) })
}

// update runs fn in a shared write transaction. fn may return errUnchanged or a refusal as long as it has written
// nothing; any other error is taken to have come after a write.
func (e *Engine) update(ctx context.Context, lazily bool, fn func(tx *boltdb.Tx, b *buckets) error) error {
	run := e.db.Update
	if lazily {
		run = e.db.UpdateLazily
	}
	err := run(ctx, func(tx *boltdb.Tx) error {
		err := fn(tx, e.join(tx))
		if refused, ok := err.(refusal); ok {
			return refused.error
		}
		if errors.Is(err, errUnchanged) {
			return err
		}
		return boltdb.Dirty(err)
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// join returns the buckets that all functions of a write transaction share.
func (e *Engine) join(tx *boltdb.Tx) *buckets {
	if e.tx != tx {
		e.tx, e.writing = tx, e.in(tx)
		e.writing.known = map[string]topicRecord{}
		tx.OnCommit(func() { e.tx, e.writing = nil, nil })
	}
	return e.writing
}

// OpenGroup implements pubsub.Engine.
func (e *Engine) OpenGroup(ctx context.Context, topic, group string, policy pubsub.DeliverPolicy, limits pubsub.NameLimits) (done uint64, err error) {
	if pubsub.IsPattern(topic) {
		return 0, e.openPattern(ctx, topic, group, policy, limits)
	}
	err = e.update(ctx, false, func(_ *boltdb.Tx, b *buckets) error {
		t, ok, err := b.topic(topic)
		if err != nil {
			return err
		}
		if ok {
			g, ok, err := b.group(t.ID, group)
			if err != nil {
				return err
			}
			if ok {
				done = g.Done
				return errUnchanged
			}
			if err := limits.AnotherGroup(topic, countPrefix(b.groups(), idKey(t.ID))); err != nil {
				return refusal{err}
			}
		} else if err := limits.AnotherTopic(b.countTopics()); err != nil {
			return refusal{err}
		}
		if t, err = b.ensureTopic(topic); err != nil {
			return err
		}
		g, err := b.ensureGroup(t, group, policy)
		done = g.Done
		return err
	})
	return done, err
}

func (e *Engine) openPattern(ctx context.Context, pattern, group string, policy pubsub.DeliverPolicy, limits pubsub.NameLimits) error {
	return e.update(ctx, false, func(_ *boltdb.Tx, b *buckets) error {
		key := patternKey(group, pattern)
		if b.patterns().Get(key) != nil {
			return errUnchanged
		}
		if err := limits.AnotherGroup(pattern, countPrefix(b.patterns(), nil)); err != nil {
			return refusal{err}
		}
		if err := b.patterns().Put(key, []byte{}); err != nil {
			return err
		}
		return eachTopic(b, func(name string, t topicRecord) error {
			if !pubsub.Matches(pattern, name) {
				return nil
			}
			_, err := b.ensureGroup(t, group, policy)
			return err
		})
	})
}

func eachTopic(b *buckets, fn func(name string, t topicRecord) error) error {
	return b.topics().ForEach(func(k, v []byte) error {
		var t topicRecord
		if err := decode(v, &t); err != nil {
			return fmt.Errorf("topic %q: %w", k, err)
		}
		return fn(string(k), t)
	})
}

// Topics implements pubsub.Engine.
func (e *Engine) Topics(context.Context) (names []string, err error) {
	err = e.read(func(b *buckets) error {
		return b.topics().ForEach(func(k, _ []byte) error {
			names = append(names, string(k))
			return nil
		})
	})
	return names, err
}

// RemoveGroup implements pubsub.Engine. A pattern is removed for the topics to come; what the group already has of
// topics that match is removed topic by topic.
func (e *Engine) RemoveGroup(ctx context.Context, topic, group string) error {
	found := false
	err := e.update(ctx, false, func(_ *boltdb.Tx, b *buckets) error {
		found = false
		if pubsub.IsPattern(topic) {
			key := patternKey(group, topic)
			if b.patterns().Get(key) == nil {
				return errUnchanged
			}
			found = true
			return b.patterns().Delete(key)
		}
		t, ok, err := b.topic(topic)
		if err != nil || !ok {
			return orUnchanged(err)
		}
		g, ok, err := b.group(t.ID, group)
		if err != nil || !ok {
			return orUnchanged(err)
		}
		found = true
		if err := b.groups().Delete(groupKey(t.ID, group)); err != nil {
			return err
		}
		for _, sub := range []*boltdb.Bucket{b.done(), b.retry()} {
			if err := deletePrefix(sub, idKey(g.ID)); err != nil {
				return err
			}
		}
		if err := b.removeDead(topic, group); err != nil {
			return err
		}
		_, err = b.trim(topic, maxTrim)
		return err
	})
	if err == nil && !found {
		return pubsub.ErrNotFound
	}
	return err
}

func orUnchanged(err error) error {
	if err == nil {
		return errUnchanged
	}
	return err
}

func deletePrefix(b *boltdb.Bucket, prefix []byte) error {
	var keys [][]byte
	c := b.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
