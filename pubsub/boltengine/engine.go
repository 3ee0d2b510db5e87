// Package boltengine keeps topics, consumer groups and dead letters in a bucket of a bbolt file.
package boltengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/bbolt"

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
	bucket []byte
	seen   seenIDs
	// dropped is for people, not for guarantees: it starts anew with the process.
	dropped duplicates
	aging   aging

	// tx is the write transaction that runs, or the last one if it was rolled back, and writing its buckets. They are the
	// writer's alone.
	tx      *bbolt.Tx
	writing buckets
}

var _ pubsub.Engine = (*Engine)(nil)

// New opens the namespace bucket of db, makes it if it is missing, and loads the ids that are still remembered. The
// engine is to be used no longer than db is open.
func New(ctx context.Context, db *boltdb.DB, bucket string) (*Engine, error) {
	e := &Engine{db: db, bucket: []byte(bucket)}
	err := db.Update(ctx, func(tx *bbolt.Tx) error {
		root, err := tx.CreateBucketIfNotExists(bucketRoot)
		if err != nil {
			return boltdb.Dirty(err)
		}
		namespace, err := root.CreateBucketIfNotExists(e.bucket)
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

// buckets are the namespace's, in one transaction.
type buckets struct {
	topics, patterns, groups, log, delayed, done, retry, dead, ids *bbolt.Bucket
	// known are topics as the write transaction has left them so far; nil in one that only reads.
	known map[string]topicRecord
}

func (e *Engine) in(tx *bbolt.Tx) buckets {
	n := tx.Bucket(bucketRoot).Bucket(e.bucket)
	return buckets{
		topics: n.Bucket(bucketTopics), patterns: n.Bucket(bucketPatterns), groups: n.Bucket(bucketGroups),
		log: n.Bucket(bucketLog), delayed: n.Bucket(bucketDelayed), done: n.Bucket(bucketDone),
		retry: n.Bucket(bucketRetry), dead: n.Bucket(bucketDead), ids: n.Bucket(bucketIDs),
	}
}

// read runs fn on a snapshot, with no more buckets opened than reading a group's events takes.
func (e *Engine) read(fn func(b buckets) error) error {
	return e.db.View(func(tx *bbolt.Tx) error {
		n := tx.Bucket(bucketRoot).Bucket(e.bucket)
		return fn(buckets{
			topics: n.Bucket(bucketTopics), groups: n.Bucket(bucketGroups), log: n.Bucket(bucketLog),
			done: n.Bucket(bucketDone), retry: n.Bucket(bucketRetry),
		})
	})
}

// update runs fn in a shared write transaction. fn may return errUnchanged or a refusal as long as it has written
// nothing; any other error is taken to have come after a write.
func (e *Engine) update(ctx context.Context, lazily bool, fn func(tx *bbolt.Tx, b buckets) error) error {
	run := e.db.Update
	if lazily {
		run = e.db.UpdateLazily
	}
	err := run(ctx, func(tx *bbolt.Tx) error {
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
func (e *Engine) join(tx *bbolt.Tx) buckets {
	if e.tx != tx {
		e.tx, e.writing = tx, e.in(tx)
		e.writing.known = map[string]topicRecord{}
		tx.OnCommit(func() { e.tx, e.writing = nil, buckets{} })
	}
	return e.writing
}

func (b buckets) topic(name string) (topicRecord, bool, error) {
	if t, ok := b.known[name]; ok {
		return t, true, nil
	}
	raw := b.topics.Get([]byte(name))
	if raw == nil {
		return topicRecord{}, false, nil
	}
	var t topicRecord
	if err := decode(raw, &t); err != nil {
		return topicRecord{}, false, fmt.Errorf("topic %q: %w", name, err)
	}
	return t, true, nil
}

func (b buckets) putTopic(name string, t topicRecord) error {
	if err := put(b.topics, []byte(name), &t); err != nil {
		return err
	}
	if b.known != nil {
		b.known[name] = t
	}
	return nil
}

func (b buckets) group(topic uint32, name string) (groupRecord, bool, error) {
	raw := b.groups.Get(groupKey(topic, name))
	if raw == nil {
		return groupRecord{}, false, nil
	}
	var g groupRecord
	if err := decode(raw, &g); err != nil {
		return groupRecord{}, false, fmt.Errorf("group %q: %w", name, err)
	}
	return g, true, nil
}

func (b buckets) putGroup(topic uint32, name string, g groupRecord) error {
	return put(b.groups, groupKey(topic, name), g)
}

func put(b *bbolt.Bucket, key []byte, record any) error {
	raw, err := encode(record, 0)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

// eachGroup calls fn for every group of a topic.
func (b buckets) eachGroup(topic uint32, fn func(name string, g groupRecord) error) error {
	prefix := idKey(topic)
	c := b.groups.Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		var g groupRecord
		name := string(k[len(prefix):])
		if err := decode(v, &g); err != nil {
			return fmt.Errorf("group %q: %w", name, err)
		}
		if err := fn(name, g); err != nil {
			return err
		}
	}
	return nil
}

// ensureTopic returns the topic, new if need be. A new topic is owed to every group whose wildcards match it, from its
// first event on.
func (b buckets) ensureTopic(name string) (topicRecord, error) {
	t, ok, err := b.topic(name)
	if ok || err != nil {
		return t, err
	}
	id, err := nextID(b.topics)
	if err != nil {
		return t, err
	}
	t = topicRecord{ID: id, First: 1}
	if err := b.putTopic(name, t); err != nil {
		return t, err
	}
	c := b.patterns.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		group, pattern, _ := bytes.Cut(k, []byte{0})
		if !pubsub.Matches(string(pattern), name) {
			continue
		}
		if _, err := b.ensureGroup(t, string(group), pubsub.DeliverAll); err != nil {
			return t, err
		}
	}
	return t, nil
}

func (b buckets) ensureGroup(t topicRecord, name string, policy pubsub.DeliverPolicy) (groupRecord, error) {
	g, ok, err := b.group(t.ID, name)
	if ok || err != nil {
		return g, err
	}
	id, err := nextID(b.groups)
	if err != nil {
		return g, err
	}
	g = groupRecord{ID: id, Done: t.First - 1}
	if policy == pubsub.DeliverNew {
		g.Done = t.Last
	}
	return g, b.putGroup(t.ID, name, g)
}

// countTopics goes by their numbers: no topic is ever removed.
func (b buckets) countTopics() uint64 { return b.topics.Sequence() }

func nextID(b *bbolt.Bucket) (uint32, error) {
	n, err := b.NextSequence()
	if err != nil {
		return 0, err
	}
	if n > math.MaxUint32 {
		return 0, fmt.Errorf("more than %d names were used in this bucket", uint32(math.MaxUint32))
	}
	return uint32(n), nil
}

// OpenGroup implements pubsub.Engine.
func (e *Engine) OpenGroup(ctx context.Context, topic, group string, policy pubsub.DeliverPolicy, limits pubsub.NameLimits) (done uint64, err error) {
	if pubsub.IsPattern(topic) {
		return 0, e.openPattern(ctx, topic, group, policy, limits)
	}
	err = e.update(ctx, false, func(_ *bbolt.Tx, b buckets) error {
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
			if err := limits.AnotherGroup(topic, countPrefix(b.groups, idKey(t.ID))); err != nil {
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
	return e.update(ctx, false, func(_ *bbolt.Tx, b buckets) error {
		key := patternKey(group, pattern)
		if b.patterns.Get(key) != nil {
			return errUnchanged
		}
		if err := limits.AnotherGroup(pattern, countPrefix(b.patterns, nil)); err != nil {
			return refusal{err}
		}
		if err := b.patterns.Put(key, []byte{}); err != nil {
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

func eachTopic(b buckets, fn func(name string, t topicRecord) error) error {
	return b.topics.ForEach(func(k, v []byte) error {
		var t topicRecord
		if err := decode(v, &t); err != nil {
			return fmt.Errorf("topic %q: %w", k, err)
		}
		return fn(string(k), t)
	})
}

// Topics implements pubsub.Engine.
func (e *Engine) Topics(context.Context) (names []string, err error) {
	err = e.db.View(func(tx *bbolt.Tx) error {
		return e.in(tx).topics.ForEach(func(k, _ []byte) error {
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
	err := e.update(ctx, false, func(_ *bbolt.Tx, b buckets) error {
		found = false
		if pubsub.IsPattern(topic) {
			key := patternKey(group, topic)
			if b.patterns.Get(key) == nil {
				return errUnchanged
			}
			found = true
			return b.patterns.Delete(key)
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
		if err := b.groups.Delete(groupKey(t.ID, group)); err != nil {
			return err
		}
		for _, sub := range []*bbolt.Bucket{b.done, b.retry} {
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

func deletePrefix(b *bbolt.Bucket, prefix []byte) error {
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
