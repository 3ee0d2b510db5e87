package boltengine

import (
	"context"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// oldestOf is how many of a group's retries are looked at for the oldest event that it is owed: they lie in the order in
// which they are due.
const oldestOf = 100

// Stats implements pubsub.Engine.
func (e *Engine) Stats(_ context.Context, after, text string, limit int) (stats []pubsub.TopicStats, err error) {
	err = e.read(func(b *buckets) error {
		for k, v := range underFrom(b.topics(), nil, []byte(after)) {
			if limit > 0 && len(stats) == limit {
				break
			}
			name := string(k)
			if name == after || !pubsub.HoldsText(name, text) {
				continue
			}
			var t topicRecord
			if err := decode(v, &t); err != nil {
				return fmt.Errorf("topic %q: %w", name, err)
			}
			s, err := e.topicStats(b, name, &t)
			if err != nil {
				return err
			}
			stats = append(stats, s)
		}
		return nil
	})
	return stats, err
}

// TopicStats implements pubsub.Engine.
func (e *Engine) TopicStats(_ context.Context, topic string) (stats pubsub.TopicStats, err error) {
	err = e.read(func(b *buckets) error {
		t, ok, err := b.topic(topic)
		if err == nil && !ok {
			err = fmt.Errorf("topic %q: %w", topic, pubsub.ErrNotFound)
		}
		if err == nil {
			stats, err = e.topicStats(b, topic, &t)
		}
		return err
	})
	return stats, err
}

func (e *Engine) topicStats(b *buckets, name string, t *topicRecord) (pubsub.TopicStats, error) {
	s := pubsub.TopicStats{
		Topic:        name,
		Stored:       t.Last + 1 - t.First,
		Delayed:      e.counts.get(delayedOf(t.ID)),
		Bytes:        t.Bytes,
		MaxBytes:     t.MaxBytes,
		MaxAge:       t.MaxAge,
		LastSequence: t.Last,
		OldestTime:   publishTime(b.first(t)),
		Groups:       []pubsub.GroupStats{},
	}
	groups, err := b.groupsOf(t.ID)
	for _, g := range groups {
		above := t.Last - max(g.Done, t.First-1)
		// The counts may be ahead of the snapshot.
		settled := min(e.counts.get(doneOf(g.ID)), above)
		s.Groups = append(s.Groups, pubsub.GroupStats{
			Group:      g.name,
			Waiting:    above - settled + e.counts.get(retriesOf(g.ID, true)),
			Retrying:   e.counts.get(retriesOf(g.ID, false)),
			Dead:       e.counts.get(deadOf(name, g.name)),
			OldestTime: b.oldestOwed(t, g),
		})
	}
	return s, err
}

// oldestOwed returns when the oldest event that the group has not settled was published: the first of the log above its
// mark, or one of its first retries. What cannot be read has no time.
func (b *buckets) oldestOwed(t *topicRecord, g namedGroup) *time.Time {
	oldest := publishTime(b.log().Get(sequenceKey(t.ID, max(g.Done+1, t.First))))
	for _, redriven := range []bool{false, true} {
		step := newBudget(oldestOf)
		for _, v := range under(b.retry(), retryPrefix(g.ID, redriven)) {
			if !step.take(len(v)) {
				break
			}
			if at := publishTime(decodeRetryRecord(v).Event); oldest == nil || at != nil && at.Before(*oldest) {
				oldest = at
			}
		}
	}
	return oldest
}

// publishTime returns nil for what cannot be read, or is not there.
func publishTime(event []byte) *time.Time {
	times, err := decodeTimes(event)
	if err != nil {
		return nil
	}
	at := time.Unix(0, times.PublishTime)
	return &at
}
