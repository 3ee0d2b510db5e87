package boltengine

import (
	"bytes"
	"context"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// find looks a topic and group up; ok is false when either is missing.
func (b *buckets) find(topic, group string) (t topicRecord, g groupRecord, ok bool, err error) {
	t, ok, err = b.topic(topic)
	if err != nil || !ok {
		return t, g, false, err
	}
	g, ok, err = b.group(t.ID, group)
	return t, g, ok, err
}

// ReadLog implements pubsub.Engine.
func (e *Engine) ReadLog(_ context.Context, topic, group string, after uint64, limit, maxBytes int) (events []pubsub.Event, err error) {
	err = e.read(func(b *buckets) error {
		t, g, ok, err := b.find(topic, group)
		if err != nil || !ok {
			return err
		}
		after = max(after, g.Done, t.First-1)
		prefix := idKey(t.ID)
		size := 0
		c := b.log().Cursor()
		for k, v := c.Seek(sequenceKey(t.ID, after+1)); bytes.HasPrefix(k, prefix) && len(events) < limit; k, v = c.Next() {
			sequence := sequenceOf(k)
			if b.done().Get(sequenceKey(g.ID, sequence)) != nil {
				continue
			}
			if size += len(v); len(events) > 0 && size > maxBytes {
				return nil
			}
			events = append(events, decodeEvent(v, topic, sequence))
		}
		return nil
	})
	return events, err
}

// ReadRetries implements pubsub.Engine.
func (e *Engine) ReadRetries(_ context.Context, topic, group string, now time.Time, skip func(pubsub.RetryKey) bool, limit, maxBytes int) (due []pubsub.Retry, next time.Time, err error) {
	size := 0
	err = e.eachRetry(topic, group, false, func(t topicRecord, k pubsub.RetryKey, v []byte) (bool, error) {
		if skip(k) {
			return true, nil
		}
		at := time.Unix(0, k.Order)
		size += len(v)
		if at.After(now) || len(due) == limit || len(due) > 0 && size > maxBytes {
			next = at
			return false, nil
		}
		r := decodeRetry(v, topic, k)
		r.Aged = t.aged(later(r.Event.PublishTime, r.Event.DeliverAt), r.History.Redriven, now)
		due = append(due, r)
		return true, nil
	})
	return due, next, err
}

// ReadRedriven implements pubsub.Engine.
func (e *Engine) ReadRedriven(_ context.Context, topic, group string, skip func(pubsub.RetryKey) bool, limit, maxBytes int) (redriven []pubsub.Retry, err error) {
	size := 0
	err = e.eachRetry(topic, group, true, func(_ topicRecord, k pubsub.RetryKey, v []byte) (bool, error) {
		if skip(k) {
			return true, nil
		}
		size += len(v)
		if len(redriven) == limit || len(redriven) > 0 && size > maxBytes {
			return false, nil
		}
		redriven = append(redriven, decodeRetry(v, topic, k))
		return true, nil
	})
	return redriven, err
}

// Retrying implements pubsub.Engine.
func (e *Engine) Retrying(_ context.Context, topic, group string) (total int, byKey map[string]int, err error) {
	byKey = map[string]int{}
	err = e.eachRetry(topic, group, false, func(_ topicRecord, k pubsub.RetryKey, v []byte) (bool, error) {
		total++
		if key := decodeRetry(v, topic, k).Event.PartitionKey; key != "" {
			byKey[key]++
		}
		return true, nil
	})
	return total, byKey, err
}

// eachRetry walks a group's retries, or its redriven events, in order until fn returns false.
func (e *Engine) eachRetry(topic, group string, redriven bool, fn func(t topicRecord, k pubsub.RetryKey, v []byte) (bool, error)) error {
	return e.read(func(b *buckets) error {
		t, g, ok, err := b.find(topic, group)
		if err != nil || !ok {
			return err
		}
		prefix := retryPrefix(g.ID, redriven)
		c := b.retry().Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			key, err := parseRetryKey(k)
			if err != nil {
				return err
			}
			more, err := fn(t, key, v)
			if err != nil || !more {
				return err
			}
		}
		return nil
	})
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func decodeRetry(raw []byte, topic string, k pubsub.RetryKey) pubsub.Retry {
	r := decodeRetryRecord(raw)
	return pubsub.Retry{Key: k, Event: decodeEvent(r.Event, topic, k.Sequence), History: historyFromRecord(r.History), After: r.After}
}
