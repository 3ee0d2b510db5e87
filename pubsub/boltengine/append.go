package boltengine

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Append implements pubsub.Engine.
func (e *Engine) Append(ctx context.Context, topic string, entries []pubsub.Entry, opts pubsub.AppendOptions, now time.Time) ([]pubsub.AppendResult, error) {
	// What can be done before the writer's turn is done here.
	encoded := make([][]byte, len(entries))
	keys := make([]dedupKey, len(entries))
	for i := range entries {
		raw, err := encodeEvent(&entries[i].Event)
		if err != nil {
			return nil, err
		}
		encoded[i] = raw
		if entries[i].DedupKey != nil {
			keys[i] = newDedupKey(topic, entries[i].DedupKey)
		}
	}

	results := make([]pubsub.AppendResult, len(entries))
	err := e.update(ctx, false, func(tx *boltdb.Tx, b *buckets) error {
		clear(results)
		e.seen.join(tx)
		return e.append(b, topic, entries, encoded, keys, results, opts, now)
	})
	if err != nil {
		return nil, err
	}
	var dropped uint64
	for _, r := range results {
		if r.Duplicate {
			dropped++
		}
	}
	e.duplicates.add(topic, dropped)
	return results, nil
}

func (e *Engine) append(b *buckets, topic string, entries []pubsub.Entry, encoded [][]byte, keys []dedupKey, results []pubsub.AppendResult, opts pubsub.AppendOptions, now time.Time) error {
	if _, ok, _ := b.topic(topic); !ok {
		if err := opts.Names.AnotherTopic(b.countTopics()); err != nil {
			return refusal{err}
		}
	}
	refused := e.judge(b, topic, entries, encoded, keys, results, opts.TopicLimits, now)
	if opts.AllOrNothing && refuseOthers(results) || refused == len(entries) {
		return errUnchanged
	}
	t, err := b.ensureTopic(topic)
	if err != nil {
		return err
	}
	t.MaxAge = opts.MaxAge
	for i := range entries {
		if results[i].Duplicate || results[i].Err != nil {
			continue
		}
		entry := &entries[i]
		if entry.DedupKey != nil {
			// Twice in one call: the first one counts.
			if seen, _ := e.seen.open(b.ids(), keys[i], now); seen {
				results[i].Duplicate = true
				continue
			}
			if err := e.seen.add(b.ids(), keys[i], now.Add(entry.DedupWindow)); err != nil {
				return err
			}
		}
		if at := entry.Event.DeliverAt; !at.IsZero() {
			if err := b.delay(t.ID, encoded[i], at); err != nil {
				return err
			}
			t.Bytes += int64(len(encoded[i]))
			continue
		}
		if err := b.appendLog(&t, encoded[i]); err != nil {
			return err
		}
		results[i].Sequence = t.Last
	}
	return b.putTopic(topic, t)
}

// refuseOthers says whether an entry was refused, and if so refuses all others.
func refuseOthers(results []pubsub.AppendResult) bool {
	if !slices.ContainsFunc(results, func(r pubsub.AppendResult) bool { return r.Err != nil }) {
		return false
	}
	for i := range results {
		if results[i].Err == nil {
			results[i] = pubsub.AppendResult{Err: pubsub.ErrOthersRefused}
		}
	}
	return true
}

// judge marks the entries that need no write: those that are on disk already, and those for which the topic has no
// room. It writes nothing itself.
func (e *Engine) judge(b *buckets, topic string, entries []pubsub.Entry, encoded [][]byte, keys []dedupKey, results []pubsub.AppendResult, limits pubsub.TopicLimits, now time.Time) (refused int) {
	var held int64
	if limits.MaxBytes > 0 {
		if t, ok, err := b.topic(topic); ok && err == nil {
			held = t.Bytes
		}
	}
	onDisk := true
	for i := range entries {
		if entries[i].DedupKey != nil {
			seen, stored := e.seen.open(b.ids(), keys[i], now)
			if seen {
				results[i].Duplicate = true
				onDisk = onDisk && stored
				refused++
				continue
			}
		}
		size := int64(len(encoded[i]))
		if limits.MaxBytes > 0 && held+size > limits.MaxBytes {
			results[i].Err = fmt.Errorf("%w: topic %q holds %d bytes, the event takes %d, maxBytes is %d: consume or purge events, or raise maxBytes", pubsub.ErrTopicFull, topic, held, size, limits.MaxBytes)
			refused++
			continue
		}
		held += size
	}
	if !onDisk {
		// The first publish of the event is in the running transaction: its duplicate's answer must wait for the sync,
		// and so is not to be taken as nothing to write.
		return -1
	}
	return refused
}

func (b *buckets) appendLog(t *topicRecord, event []byte) error {
	t.Last++
	t.Bytes += int64(len(event))
	key := sequenceKey(t.ID, t.Last)
	b.log().SetFillPercent(sequentialFill)
	return b.log().Put(key, event)
}

// sequentialFill packs pages full, since the keys of the log only ever grow at the end.
const sequentialFill = 0.95

func (b *buckets) delay(topic uint32, event []byte, due time.Time) error {
	n, err := b.delayed().NextSequence()
	if err != nil {
		return err
	}
	return b.delayed().Put(delayedKey(due, topic, n), event)
}

// Promote implements pubsub.Engine.
func (e *Engine) Promote(ctx context.Context, now time.Time, limit int) (topics []string, next time.Time, err error) {
	err = e.update(ctx, false, func(_ *boltdb.Tx, b *buckets) error {
		topics = nil
		var due [][]byte
		var err error
		if due, next, err = b.dueDelayed(now, limit); err != nil {
			return err
		}
		if len(due) == 0 {
			return errUnchanged
		}
		names := map[uint32]string{}
		if err := eachTopic(b, func(name string, t topicRecord) error { names[t.ID] = name; return nil }); err != nil {
			return err
		}
		for _, key := range due {
			_, id, _ := parseDelayedKey(key)
			name, ok := names[id]
			if !ok {
				return fmt.Errorf("a delayed event is of topic number %d, which is not there", id)
			}
			if err := b.promote(name, key); err != nil {
				return err
			}
			if !slices.Contains(topics, name) {
				topics = append(topics, name)
			}
		}
		return nil
	})
	return topics, next, err
}

// dueDelayed returns the keys of at most limit delayed events that are due, and when the next one is.
func (b *buckets) dueDelayed(now time.Time, limit int) (keys [][]byte, next time.Time, err error) {
	c := b.delayed().Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		at, _, err := parseDelayedKey(k)
		if err != nil {
			return nil, next, err
		}
		if at.After(now) || len(keys) == limit {
			return keys, at, nil
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys, time.Time{}, nil
}

// promote moves a delayed event to the end of its topic.
func (b *buckets) promote(topic string, key []byte) error {
	t, _, err := b.topic(topic)
	if err != nil {
		return err
	}
	event := bytes.Clone(b.delayed().Get(key))
	t.Bytes -= int64(len(event)) // it counts already
	if err := b.appendLog(&t, event); err != nil {
		return err
	}
	if err := b.putTopic(topic, t); err != nil {
		return err
	}
	return b.delayed().Delete(key)
}
