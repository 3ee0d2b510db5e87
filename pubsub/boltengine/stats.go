package boltengine

import (
	"bytes"
	"context"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Stats implements pubsub.Engine.
func (e *Engine) Stats(_ context.Context, _ time.Time) (stats []pubsub.TopicStats, err error) {
	err = e.read(func(b *buckets) error {
		delayed, err := b.countDelayed()
		if err != nil {
			return err
		}
		dead, err := b.countDead()
		if err != nil {
			return err
		}
		return eachTopic(b, func(name string, t topicRecord) error {
			s := pubsub.TopicStats{
				Topic:        name,
				Stored:       t.Last + 1 - t.First,
				Delayed:      delayed[name],
				Bytes:        t.Bytes,
				LastSequence: t.Last,
				Duplicates:   e.dropped.of(name),
				Groups:       []pubsub.GroupStats{},
			}
			if raw := b.log().Get(sequenceKey(t.ID, t.First)); raw != nil {
				published, err := publishTime(raw)
				if err != nil {
					return err
				}
				s.OldestTime = &published
			}
			err := b.eachGroup(t.ID, func(group string, g groupRecord) error {
				settled := countPrefix(b.done(), idKey(g.ID))
				oldest, err := b.oldestOwed(t, g)
				if err != nil {
					return err
				}
				s.Groups = append(s.Groups, pubsub.GroupStats{
					Group:   group,
					Waiting: t.Last - max(g.Done, t.First-1) - settled + countPrefix(b.retry(), retryPrefix(g.ID, true)),
					Delayed: countPrefix(b.retry(), retryPrefix(g.ID, false)),
					Dead:    dead[groupName{name, group}],

					OldestTime: oldest,
				})
				return nil
			})
			stats = append(stats, s)
			return err
		})
	})
	return stats, err
}

// oldestOwed returns when the oldest event that the group has not settled was published: the first of the log above its
// mark, or one of its retries.
func (b *buckets) oldestOwed(t topicRecord, g groupRecord) (oldest *time.Time, err error) {
	consider := func(event []byte) error {
		published, err := publishTime(event)
		if err == nil && (oldest == nil || published.Before(*oldest)) {
			oldest = &published
		}
		return err
	}
	if raw := b.log().Get(sequenceKey(t.ID, max(g.Done+1, t.First))); raw != nil {
		if err := consider(raw); err != nil {
			return nil, err
		}
	}
	prefix := idKey(g.ID)
	c := b.retry().Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		var r retryRecord
		if err := decode(v, &r); err != nil {
			return nil, err
		}
		if err := consider(r.Event); err != nil {
			return nil, err
		}
	}
	return oldest, nil
}

type groupName struct{ topic, group string }

func (b *buckets) countDelayed() (map[string]uint64, error) {
	counts := map[string]uint64{}
	err := b.delayed().ForEach(func(_, v []byte) error {
		var r delayedRecord
		err := decode(v, &r)
		counts[r.Topic]++
		return err
	})
	return counts, err
}

func (b *buckets) countDead() (map[groupName]uint64, error) {
	counts := map[groupName]uint64{}
	err := b.dead().ForEach(func(_, v []byte) error {
		var r deadRecord
		err := decode(v, &r)
		counts[groupName{r.Topic, r.Group}]++
		return err
	})
	return counts, err
}

func countPrefix(b *bbolt.Bucket, prefix []byte) (n uint64) {
	c := b.Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		n++
	}
	return n
}
