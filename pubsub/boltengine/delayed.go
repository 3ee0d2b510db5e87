package boltengine

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"
)

// delay holds an event back until it is due.
func (b *buckets) delay(t *topicRecord, event []byte, due time.Time) error {
	number, err := b.delayed().NextSequence()
	if err != nil {
		return err
	}
	t.Bytes += int64(len(event))
	b.count(delayedOf(t.ID), 1)
	return b.delayed().Put(delayedKey(due, t.ID, number), event)
}

// Promote implements pubsub.Engine.
func (e *Engine) Promote(ctx context.Context, now time.Time, limit int) (topics []string, next time.Time, err error) {
	err = e.update(ctx, func(b *buckets) (err error) {
		topics = nil
		var due [][]byte
		if due, next, err = b.due(now, newBudget(limit)); err != nil || len(due) == 0 {
			return err
		}
		all, err := b.listTopics()
		if err != nil {
			return err
		}
		names, grown := namesByID(all), map[string]bool{}
		for _, key := range due {
			_, topic, _ := parseDelayedKey(key)
			name, ok := names[topic]
			if !ok {
				// Its topic was removed, and it is about to be.
				b.countDelayed(key, -1)
				if err := b.delayed().Delete(key); err != nil {
					return err
				}
				continue
			}
			if err := b.promote(name, key); err != nil {
				return err
			}
			grown[name] = true
		}
		topics = slices.Collect(maps.Keys(grown))
		return nil
	})
	return topics, next, err
}

// due returns the keys of the delayed events that are due, as many as one step may move, and when the next one is.
func (b *buckets) due(now time.Time, step *budget) (keys [][]byte, next time.Time, err error) {
	for k, v := range under(b.delayed(), nil) {
		at, _, err := parseDelayedKey(k)
		if err != nil || at.After(now) || !step.take(len(v)) {
			return keys, at, err
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
	if err := b.delayed().Delete(key); err != nil {
		return err
	}
	t.Bytes -= int64(len(event))
	b.count(delayedOf(t.ID), -1)
	if err := b.appendLog(&t, event); err != nil {
		return err
	}
	b.putTopic(topic, t)
	return nil
}
