package boltengine

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// buckets are those of layout.go in one transaction. Each is opened when it is first asked for: opening the few that a
// publish does not need would cost it as much as writing to those that it does.
type buckets struct {
	top    *boltdb.Bucket
	opened struct{ topics, patterns, groups, log, delayed, done, retry, dead, ids, removed *boltdb.Bucket }
	// known are topics that the write transaction has changed, dedup what it changes of the ids, and counted by how much
	// it changes the engine's counts.
	known   map[string]topicRecord
	dedup   dedupChanges
	counted map[counted]int64
}

func (e *Engine) in(tx *boltdb.Tx) *buckets { return &buckets{top: e.bucket.In(tx)} }

func (b *buckets) open(opened **boltdb.Bucket, name []byte) *boltdb.Bucket {
	if *opened == nil {
		*opened = b.top.Bucket(name)
	}
	return *opened
}

func (b *buckets) topics() *boltdb.Bucket   { return b.open(&b.opened.topics, bucketTopics) }
func (b *buckets) patterns() *boltdb.Bucket { return b.open(&b.opened.patterns, bucketPatterns) }
func (b *buckets) groups() *boltdb.Bucket   { return b.open(&b.opened.groups, bucketGroups) }
func (b *buckets) log() *boltdb.Bucket      { return b.open(&b.opened.log, bucketLog) }
func (b *buckets) delayed() *boltdb.Bucket  { return b.open(&b.opened.delayed, bucketDelayed) }
func (b *buckets) done() *boltdb.Bucket     { return b.open(&b.opened.done, bucketDone) }
func (b *buckets) retry() *boltdb.Bucket    { return b.open(&b.opened.retry, bucketRetry) }
func (b *buckets) dead() *boltdb.Bucket     { return b.open(&b.opened.dead, bucketDead) }
func (b *buckets) ids() *boltdb.Bucket      { return b.open(&b.opened.ids, bucketIDs) }
func (b *buckets) removed() *boltdb.Bucket  { return b.open(&b.opened.removed, bucketRemoved) }

func (b *buckets) topic(name string) (t topicRecord, ok bool, err error) {
	if t, ok := b.known[name]; ok {
		return t, true, nil
	}
	raw := b.topics().Get([]byte(name))
	if raw == nil {
		return t, false, nil
	}
	if err := decode(raw, &t); err != nil {
		return t, false, fmt.Errorf("topic %q: %w", name, err)
	}
	return t, true, nil
}

// putTopic changes a topic: in a write transaction once, at its end, however many functions do.
func (b *buckets) putTopic(name string, t topicRecord) { b.known[name] = t }

// finish writes what is written once for all functions of a write transaction.
func (b *buckets) finish() error { return errors.Join(b.writeIDs(), b.writeTopics()) }

// writeTopics writes the topics that were changed.
func (b *buckets) writeTopics() error {
	for name, t := range b.known {
		if err := put(b.topics(), []byte(name), &t); err != nil {
			return err
		}
	}
	return nil
}

type namedTopic struct {
	name string
	topicRecord
}

// listTopics returns all topics, by name.
func (b *buckets) listTopics() (topics []namedTopic, err error) {
	if err := b.writeTopics(); err != nil {
		return nil, err
	}
	for k, v := range under(b.topics(), nil) {
		t := namedTopic{name: string(k)}
		if err := decode(v, &t.topicRecord); err != nil {
			return nil, fmt.Errorf("topic %q: %w", t.name, err)
		}
		topics = append(topics, t)
	}
	return topics, nil
}

func namesByID(topics []namedTopic) map[uint32]string {
	names := make(map[uint32]string, len(topics))
	for _, t := range topics {
		names[t.ID] = t.name
	}
	return names
}

// ensureTopic returns the topic, new if need be. A new topic is owed to every group whose wildcards match it, from its
// first event on.
func (b *buckets) ensureTopic(name string) (topicRecord, error) {
	t, ok, err := b.topic(name)
	if ok || err != nil {
		return t, err
	}
	id, err := nextID(b.topics())
	if err != nil {
		return t, err
	}
	b.count(allTopics(), 1)
	t = topicRecord{ID: id, First: 1}
	b.putTopic(name, t)
	for k := range under(b.patterns(), nil) {
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

// find looks a topic and group up; ok is false when either is missing.
func (b *buckets) find(topic, group string) (t topicRecord, g groupRecord, ok bool, err error) {
	t, ok, err = b.topic(topic)
	if err != nil || !ok {
		return t, g, false, err
	}
	g, ok, err = b.group(t.ID, group)
	return t, g, ok, err
}

func (b *buckets) group(topic uint32, name string) (g groupRecord, ok bool, err error) {
	raw := b.groups().Get(groupKey(topic, name))
	if raw == nil {
		return g, false, nil
	}
	if err := decode(raw, &g); err != nil {
		return g, false, fmt.Errorf("group %q: %w", name, err)
	}
	return g, true, nil
}

func (b *buckets) putGroup(topic uint32, name string, g groupRecord) error {
	return put(b.groups(), groupKey(topic, name), g)
}

type groupName struct{ topic, group string }

type namedGroup struct {
	name string
	groupRecord
}

// groupsOf returns the groups of a topic.
func (b *buckets) groupsOf(topic uint32) (groups []namedGroup, err error) {
	prefix := idKey(topic)
	for k, v := range under(b.groups(), prefix) {
		g := namedGroup{name: string(k[len(prefix):])}
		if err := decode(v, &g.groupRecord); err != nil {
			return nil, fmt.Errorf("group %q: %w", g.name, err)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

func (b *buckets) ensureGroup(t topicRecord, name string, policy pubsub.DeliverPolicy) (groupRecord, error) {
	g, ok, err := b.group(t.ID, name)
	if ok || err != nil {
		return g, err
	}
	id, err := nextID(b.groups())
	if err != nil {
		return g, err
	}
	g = groupRecord{ID: id, After: t.First - 1}
	if policy == pubsub.DeliverNew {
		g.After = t.Last
	}
	g.Done = g.After
	return g, b.putGroup(t.ID, name, g)
}

// nextID returns a number that was never used in the bucket.
func nextID(b *boltdb.Bucket) (uint32, error) {
	n, err := b.NextSequence()
	if err != nil {
		return 0, err
	}
	if n > math.MaxUint32 {
		return 0, fmt.Errorf("more than %d names were used in this bucket", uint32(math.MaxUint32))
	}
	return uint32(n), nil
}

// under walks the records whose keys begin with prefix; nil: all. The bucket must not be changed meanwhile.
func under(b *boltdb.Bucket, prefix []byte) iter.Seq2[[]byte, []byte] {
	return underFrom(b, prefix, prefix)
}

// underFrom is under from a key on.
func underFrom(b *boltdb.Bucket, prefix, from []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		c := b.Cursor()
		for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix) && yield(k, v); {
			k, v = c.Next()
		}
	}
}

func put(b *boltdb.Bucket, key []byte, record any) error {
	raw, err := encode(record, 0)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

func countPrefix(b *boltdb.Bucket, prefix []byte) (n uint64) {
	for range under(b, prefix) {
		n++
	}
	return n
}

func deleteAll(b *boltdb.Bucket, keys [][]byte) error {
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
