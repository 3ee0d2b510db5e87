package boltengine

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// duplicates counts dropped duplicates by topic since the engine was opened.
type duplicates struct {
	mu     sync.Mutex
	counts map[string]uint64
}

func (d *duplicates) add(topic string, n uint64) {
	if n == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[string]uint64{}
	}
	d.counts[topic] += n
}

func (d *duplicates) of(topic string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[topic]
}

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
	err := e.update(ctx, false, func(tx *bbolt.Tx, b *buckets) error {
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
	e.dropped.add(topic, dropped)
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
	if opts.MaxAge > 0 {
		t.MaxAge = opts.MaxAge
	}
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
		if !entry.DeliverAt.IsZero() {
			if err := b.delay(topic, encoded[i], entry.DeliverAt); err != nil {
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
	b.log().FillPercent = sequentialFill
	return b.log().Put(key, event)
}

// sequentialFill packs pages full, since the keys of the log only ever grow at the end.
const sequentialFill = 0.95

func (b *buckets) delay(topic string, event []byte, due time.Time) error {
	n, err := b.delayed().NextSequence()
	if err != nil {
		return err
	}
	return put(b.delayed(), pairKey(uint64(due.UnixNano()), n), delayedRecord{Topic: topic, Event: event})
}

// Promote implements pubsub.Engine.
func (e *Engine) Promote(ctx context.Context, now time.Time, limit int) (topics []string, next time.Time, err error) {
	err = e.update(ctx, false, func(_ *bbolt.Tx, b *buckets) error {
		topics, next = nil, time.Time{}
		var keys [][]byte
		var due []delayedRecord
		c := b.delayed().Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			at := time.Unix(0, int64(binary.BigEndian.Uint64(k)))
			if at.After(now) || len(keys) == limit {
				next = at
				break
			}
			var r delayedRecord
			if err := decode(v, &r); err != nil {
				return err
			}
			keys, due = append(keys, append([]byte(nil), k...)), append(due, r)
		}
		if len(keys) == 0 {
			return errUnchanged
		}
		grown := map[string]bool{}
		for i, r := range due {
			t, err := b.ensureTopic(r.Topic)
			if err != nil {
				return err
			}
			t.Bytes -= int64(len(r.Event)) // it counts already
			if err := b.appendLog(&t, r.Event); err != nil {
				return err
			}
			if err := b.putTopic(r.Topic, t); err != nil {
				return err
			}
			if err := b.delayed().Delete(keys[i]); err != nil {
				return err
			}
			if !grown[r.Topic] {
				grown[r.Topic] = true
				topics = append(topics, r.Topic)
			}
		}
		return nil
	})
	return topics, next, err
}
