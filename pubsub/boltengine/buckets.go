package boltengine

import (
	"bytes"
	"fmt"
	"math"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// buckets are the namespace's, in one transaction. Each is opened when it is first asked for: opening the few that a
// publish does not need would cost it as much as writing to those that it does.
type buckets struct {
	namespace *boltdb.Bucket
	opened    struct{ topics, patterns, groups, log, delayed, done, retry, dead, ids *boltdb.Bucket }
	// known are topics as the write transaction has left them so far; nil in one that only reads.
	known map[string]topicRecord
}

func (e *Engine) in(tx *boltdb.Tx) *buckets {
	return &buckets{namespace: e.bucket.In(tx)}
}

func (b *buckets) open(opened **boltdb.Bucket, name []byte) *boltdb.Bucket {
	if *opened == nil {
		*opened = b.namespace.Bucket(name)
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

func (b *buckets) topic(name string) (topicRecord, bool, error) {
	if t, ok := b.known[name]; ok {
		return t, true, nil
	}
	raw := b.topics().Get([]byte(name))
	if raw == nil {
		return topicRecord{}, false, nil
	}
	var t topicRecord
	if err := decode(raw, &t); err != nil {
		return topicRecord{}, false, fmt.Errorf("topic %q: %w", name, err)
	}
	return t, true, nil
}

func (b *buckets) putTopic(name string, t topicRecord) error {
	if err := put(b.topics(), []byte(name), &t); err != nil {
		return err
	}
	if b.known != nil {
		b.known[name] = t
	}
	return nil
}

func (b *buckets) group(topic uint32, name string) (groupRecord, bool, error) {
	raw := b.groups().Get(groupKey(topic, name))
	if raw == nil {
		return groupRecord{}, false, nil
	}
	var g groupRecord
	if err := decode(raw, &g); err != nil {
		return groupRecord{}, false, fmt.Errorf("group %q: %w", name, err)
	}
	return g, true, nil
}

func (b *buckets) putGroup(topic uint32, name string, g groupRecord) error {
	return put(b.groups(), groupKey(topic, name), g)
}

func put(b *boltdb.Bucket, key []byte, record any) error {
	raw, err := encode(record, 0)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

// eachGroup calls fn for every group of a topic.
func (b *buckets) eachGroup(topic uint32, fn func(name string, g groupRecord) error) error {
	prefix := idKey(topic)
	c := b.groups().Cursor()
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
func (b *buckets) ensureTopic(name string) (topicRecord, error) {
	t, ok, err := b.topic(name)
	if ok || err != nil {
		return t, err
	}
	id, err := nextID(b.topics())
	if err != nil {
		return t, err
	}
	t = topicRecord{ID: id, First: 1}
	if err := b.putTopic(name, t); err != nil {
		return t, err
	}
	c := b.patterns().Cursor()
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

func (b *buckets) ensureGroup(t topicRecord, name string, policy pubsub.DeliverPolicy) (groupRecord, error) {
	g, ok, err := b.group(t.ID, name)
	if ok || err != nil {
		return g, err
	}
	id, err := nextID(b.groups())
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
func (b *buckets) countTopics() uint64 { return b.topics().Sequence() }

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
