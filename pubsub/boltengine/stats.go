package boltengine

import (
	"bytes"
	"context"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Stats implements pubsub.Engine.
func (e *Engine) Stats(_ context.Context, _ time.Time) (stats []pubsub.TopicStats, err error) {
	err = e.read(func(b *buckets) error {
		delayed, dead := b.countDelayed(), b.countDead()
		return b.eachTopic(func(name string, t topicRecord) error {
			s := pubsub.TopicStats{
				Topic:        name,
				Stored:       t.Last + 1 - t.First,
				Delayed:      delayed[t.ID],
				Bytes:        t.Bytes,
				LastSequence: t.Last,
				OldestTime:   publishTime(b.first(&t)),
				Groups:       []pubsub.GroupStats{},
			}
			groups, err := b.groupsOf(t.ID)
			for _, g := range groups {
				settled := countPrefix(b.done(), idKey(g.ID))
				s.Groups = append(s.Groups, pubsub.GroupStats{
					Group:      g.name,
					Waiting:    t.Last - max(g.Done, t.First-1) - settled + countPrefix(b.retry(), retryPrefix(g.ID, true)),
					Retrying:   countPrefix(b.retry(), retryPrefix(g.ID, false)),
					Dead:       dead[groupName{name, g.name}],
					OldestTime: b.oldestOwed(&t, g),
				})
			}
			stats = append(stats, s)
			return err
		})
	})
	return stats, err
}

// oldestOwed returns when the oldest event that the group has not settled was published: the first of the log above its
// mark, or one of its retries. What cannot be read has no time.
func (b *buckets) oldestOwed(t *topicRecord, g namedGroup) *time.Time {
	oldest := publishTime(b.log().Get(sequenceKey(t.ID, max(g.Done+1, t.First))))
	prefix := idKey(g.ID)
	c := b.retry().Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if at := publishTime(decodeRetryRecord(v).Event); oldest == nil || at != nil && at.Before(*oldest) {
			oldest = at
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

// countDelayed counts by the topic's number.
func (b *buckets) countDelayed() map[uint32]uint64 {
	counts := map[uint32]uint64{}
	c := b.delayed().Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if _, topic, err := parseDelayedKey(k); err == nil {
			counts[topic]++
		}
	}
	return counts
}

func (b *buckets) countDead() map[groupName]uint64 {
	counts := map[groupName]uint64{}
	c := b.dead().Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		r := decodeDeadRecord(v)
		counts[groupName{r.Topic, r.Group}]++
	}
	return counts
}

type groupName struct{ topic, group string }
