package boltengine

import (
	"context"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// putRetry adds a retry or a redriven event to a group of the topic.
func (b *buckets) putRetry(t *topicRecord, group uint32, k pubsub.RetryKey, r retryRecord) error {
	raw, err := encode(&r, len(r.Event))
	if err != nil {
		return err
	}
	t.Bytes += int64(len(raw))
	b.count(retriesOf(group, k.Redriven), 1)
	return b.retry().Put(retryKey(group, k), raw)
}

// takeRetry removes one, and returns ok false if it is not there.
func (b *buckets) takeRetry(t *topicRecord, key []byte) (r retryRecord, ok bool, err error) {
	raw := b.retry().Get(key)
	if raw == nil {
		return r, false, nil
	}
	r = decodeRetryRecord(raw)
	t.Bytes -= int64(len(raw))
	group, k, err := parseRetryKey(key)
	if err != nil {
		return r, false, err
	}
	b.count(retriesOf(group, k.Redriven), -1)
	return r, true, b.retry().Delete(key)
}

// ReadRetries implements pubsub.Engine.
func (e *Engine) ReadRetries(_ context.Context, topic, group string, now time.Time, skip func(pubsub.RetryKey) bool, limit, maxBytes int) (due []pubsub.Retry, next time.Time, err error) {
	return e.readRetries(topic, group, false, now, skip, limit, maxBytes)
}

// ReadRedriven implements pubsub.Engine.
func (e *Engine) ReadRedriven(_ context.Context, topic, group string, skip func(pubsub.RetryKey) bool, limit, maxBytes int) ([]pubsub.Retry, error) {
	// The order in which they were redriven is no time to wait for.
	redriven, _, err := e.readRetries(topic, group, true, pubsub.LatestTime, skip, limit, maxBytes)
	return redriven, err
}

func (e *Engine) readRetries(topic, group string, redriven bool, now time.Time, skip func(pubsub.RetryKey) bool, limit, maxBytes int) (due []pubsub.Retry, next time.Time, err error) {
	size := 0
	err = e.eachRetry(topic, group, redriven, func(t topicRecord, k pubsub.RetryKey, v []byte) bool {
		if skip(k) {
			return true
		}
		at := time.Unix(0, k.Order)
		size += len(v)
		if at.After(now) || len(due) == limit || len(due) > 0 && size > maxBytes {
			next = at
			return false
		}
		r := decodeRetry(v, topic, k)
		if r.Event.Unreadable == "" {
			r.AgesAt = pubsub.AgesAt(t.MaxAge, r.Event.AvailableAt(), r.History.Redriven)
		}
		due = append(due, r)
		return true
	})
	return due, next, err
}

// Retrying implements pubsub.Engine.
func (e *Engine) Retrying(_ context.Context, topic, group string) (total int, byKey map[string]int, err error) {
	byKey = map[string]int{}
	err = e.eachRetry(topic, group, false, func(_ topicRecord, k pubsub.RetryKey, v []byte) bool {
		total++
		if key := decodeRetry(v, topic, k).Event.PartitionKey; key != "" {
			byKey[key]++
		}
		return true
	})
	return total, byKey, err
}

// eachRetry walks a group's retries, or its redriven events, in order until fn returns false.
func (e *Engine) eachRetry(topic, group string, redriven bool, fn func(t topicRecord, k pubsub.RetryKey, v []byte) bool) error {
	return e.read(func(b *buckets) error {
		t, g, ok, err := b.find(topic, group)
		if err != nil || !ok {
			return err
		}
		for k, v := range under(b.retry(), retryPrefix(g.ID, redriven)) {
			_, key, err := parseRetryKey(k)
			if err != nil || !fn(t, key, v) {
				return err
			}
		}
		return nil
	})
}
