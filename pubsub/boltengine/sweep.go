package boltengine

import (
	"bytes"
	"context"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Sweep implements pubsub.Engine.
func (e *Engine) Sweep(ctx context.Context, now time.Time, limit int, claim func(topic, group string) bool) (more bool, err error) {
	retries, err := e.agedRetries(now, limit)
	if err != nil {
		return false, err
	}
	err = e.update(ctx, true, func(tx *boltdb.Tx, b *buckets) error {
		left := limit
		n, err := e.seen.sweep(tx, b.ids(), now, left)
		if err != nil {
			return err
		}
		left -= n
		names, err := agedTopics(b)
		if err != nil {
			return err
		}
		for _, name := range names {
			if left <= 0 {
				break
			}
			aged, err := b.age(name, now, left)
			if err != nil {
				return err
			}
			trimmed, err := b.trim(name, max(left-aged, 0))
			if err != nil {
				return err
			}
			left -= aged + trimmed
		}
		for _, r := range retries {
			if left <= 0 {
				break
			}
			if !claim(r.topic, r.group) {
				continue
			}
			if err := b.buryRetry(r, now); err != nil {
				return err
			}
			left--
		}
		more = left <= 0
		if left == limit {
			return errUnchanged
		}
		return nil
	})
	return more, err
}

func agedTopics(b *buckets) (names []string, err error) {
	err = eachTopic(b, func(name string, t topicRecord) error {
		if t.First <= t.Last {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// age takes events that are older than the topic keeps them out of it, at most limit of them. Each goes to the dead
// letters of the groups that still owe it.
func (b *buckets) age(topic string, now time.Time, limit int) (int, error) {
	t, ok, err := b.topic(topic)
	if err != nil || !ok || t.MaxAge <= 0 {
		return 0, err
	}
	aged := b.countAged(t, now, limit)
	if aged == 0 {
		return 0, nil
	}
	for range aged {
		if err := b.buryForGroups(topic, t, b.log().Get(sequenceKey(t.ID, t.First)), now); err != nil {
			return 0, err
		}
		if err := b.dropFirst(&t); err != nil {
			return 0, err
		}
	}
	return aged, b.putTopic(topic, t)
}

// countAged counts the first events of the log that are too old, at most limit of them. One that cannot be read is as old
// as the next that can.
func (b *buckets) countAged(t topicRecord, now time.Time, limit int) (aged int) {
	prefix := idKey(t.ID)
	c := b.log().Cursor()
	n := 0
	for k, v := c.Seek(sequenceKey(t.ID, t.First)); bytes.HasPrefix(k, prefix) && n < limit; k, v = c.Next() {
		n++
		since, err := ageStart(v)
		if err != nil {
			continue
		}
		if !t.aged(since, 0, now) {
			break
		}
		aged = n
	}
	return aged
}

func (b *buckets) buryForGroups(topic string, t topicRecord, event []byte, now time.Time) error {
	changed := map[string]groupRecord{}
	err := b.eachGroup(t.ID, func(name string, g groupRecord) error {
		if g.Done < t.First {
			changed[name] = g
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, g := range changed {
		if b.done().Get(sequenceKey(g.ID, t.First)) == nil {
			err := b.bury(deadRecord{
				Topic:    topic,
				Group:    name,
				Sequence: t.First,
				Event:    event,
				Reason:   string(pubsub.ReasonMaxAge),
				Time:     now.UnixNano(),
			})
			if err != nil {
				return err
			}
		}
		if err := b.markDone(&g, []uint64{t.First}); err != nil {
			return err
		}
		if err := b.putGroup(t.ID, name, g); err != nil {
			return err
		}
	}
	return nil
}
