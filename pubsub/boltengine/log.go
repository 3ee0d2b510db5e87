package boltengine

import (
	"context"
	"math"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// appendLog adds an event to the end of the topic.
func (b *buckets) appendLog(t *topicRecord, event []byte) error {
	t.Last++
	t.Bytes += int64(len(event))
	b.log().SetFillPercent(sequentialFill)
	return b.log().Put(sequenceKey(t.ID, t.Last), event)
}

// first returns the first event of the log, or nil.
func (b *buckets) first(t *topicRecord) []byte { return b.log().Get(sequenceKey(t.ID, t.First)) }

// dropFirst removes the first event of the log.
func (b *buckets) dropFirst(t *topicRecord) error {
	t.Bytes -= int64(len(b.first(t)))
	t.First++
	return b.log().Delete(sequenceKey(t.ID, t.First-1))
}

// trim removes the events that every group is done with. A topic without groups keeps its events.
func (b *buckets) trim(t *topicRecord, step *budget) error {
	groups, err := b.groupsOf(t.ID)
	if err != nil || len(groups) == 0 {
		return err
	}
	done := uint64(math.MaxUint64)
	for i := range groups {
		done = min(done, groups[i].Done)
	}
	for t.First <= min(done, t.Last) && step.take(0) {
		if err := b.dropFirst(t); err != nil {
			return err
		}
	}
	return nil
}

// ReadLog implements pubsub.Engine.
func (e *Engine) ReadLog(_ context.Context, topic, group string, after uint64, limit, maxBytes int) (events []pubsub.Event, upTo uint64, err error) {
	err = e.read(func(b *buckets) error {
		t, g, ok, err := b.find(topic, group)
		if err != nil || !ok {
			return err
		}
		after = max(after, g.Done, t.First-1)
		size := 0
		upTo = after
		for k, v := range underFrom(b.log(), idKey(t.ID), sequenceKey(t.ID, after+1)) {
			if len(events) == limit {
				return nil
			}
			sequence := sequenceOf(k)
			if b.done().Get(sequenceKey(g.ID, sequence)) != nil {
				upTo = sequence
				continue
			}
			if size += len(v); len(events) > 0 && size > maxBytes {
				return nil
			}
			events, upTo = append(events, decodeEvent(v, topic, sequence)), sequence
		}
		upTo = max(upTo, t.Last)
		return nil
	})
	return events, upTo, err
}
