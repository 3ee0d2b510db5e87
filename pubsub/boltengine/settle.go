package boltengine

import (
	"bytes"
	"context"
	"math"
	"slices"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// maxTrim bounds the events that leave a topic in one transaction.
const maxTrim = 4096

// Settle implements pubsub.Engine.
func (e *Engine) Settle(ctx context.Context, topic, group string, settlements []pubsub.Settlement) (gone []int, err error) {
	var expired uint64
	err = e.update(ctx, true, func(_ *boltdb.Tx, b *buckets) error {
		gone, expired = nil, 0
		t, g, ok, err := b.find(topic, group)
		if err != nil || !ok {
			// The group was removed: nobody asks what became of its events.
			return orUnchanged(err)
		}
		var settled []uint64
		for i := range settlements {
			s := &settlements[i]
			if s.Retry == nil {
				settled = append(settled, s.Sequence)
			}
			there, err := b.settleOne(topic, group, t, g, s)
			if err != nil {
				return err
			}
			switch {
			case !there:
				gone = append(gone, i)
			case s.Outcome == pubsub.Expired:
				expired++
			}
		}
		before := g.Done
		if err := b.markDone(&g, settled); err != nil {
			return err
		}
		if g.Done == before {
			return nil
		}
		if err := b.putGroup(t.ID, group, g); err != nil {
			return err
		}
		_, err = b.trim(topic, maxTrim)
		return err
	})
	if err == nil {
		e.expired.add(groupName{topic, group}, expired)
	}
	return gone, err
}

// settleOne moves an event from the log or from the retries to where its settlement says. An event that is no longer
// there was swept away meanwhile, and is a dead letter by now: that changes nothing.
func (b *buckets) settleOne(topic, group string, t topicRecord, g groupRecord, s *pubsub.Settlement) (there bool, err error) {
	var event []byte
	if s.Retry == nil {
		if s.Sequence <= g.Done || s.Outcome == pubsub.Acked || s.Outcome == pubsub.Expired {
			return s.Sequence > g.Done, nil
		}
		event = b.log().Get(sequenceKey(t.ID, s.Sequence))
	} else {
		key := retryKey(g.ID, *s.Retry)
		raw := b.retry().Get(key)
		if raw == nil {
			return false, nil
		}
		event = decodeRetryRecord(raw).Event
		if err := b.retry().Delete(key); err != nil {
			return false, err
		}
	}
	if event == nil {
		return false, nil
	}
	switch s.Outcome {
	case pubsub.Retried:
		key := pubsub.RetryKey{Order: s.Due.UnixNano(), Sequence: s.Sequence}
		return true, put(b.retry(), retryKey(g.ID, key), retryRecord{Event: event, History: historyToRecord(s.History)})
	case pubsub.Dead:
		return true, b.bury(deadRecord{
			Topic:    topic,
			Group:    group,
			Sequence: s.Sequence,
			Event:    event,
			History:  historyToRecord(s.History),
			Reason:   string(s.Reason),
			Time:     s.At.UnixNano(),
		})
	default:
		return true, nil
	}
}

// markDone moves the group's mark up over what is settled without a gap, and notes the rest.
func (b *buckets) markDone(g *groupRecord, settled []uint64) error {
	slices.Sort(settled)
	for _, sequence := range settled {
		switch {
		case sequence <= g.Done:
		case sequence == g.Done+1:
			g.Done = sequence
		default:
			if err := b.done().Put(sequenceKey(g.ID, sequence), []byte{}); err != nil {
				return err
			}
		}
	}
	return b.absorbDone(g)
}

// absorbDone moves the mark over what was noted right above it.
func (b *buckets) absorbDone(g *groupRecord) error {
	prefix := idKey(g.ID)
	var absorbed [][]byte
	c := b.done().Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		sequence := sequenceOf(k)
		if sequence > g.Done+1 {
			break
		}
		g.Done = max(g.Done, sequence)
		absorbed = append(absorbed, bytes.Clone(k))
	}
	for _, k := range absorbed {
		if err := b.done().Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// trim removes events that every group is done with, at most limit of them, and says how many it removed. A topic
// without groups keeps its events.
func (b *buckets) trim(topic string, limit int) (int, error) {
	t, ok, err := b.topic(topic)
	if err != nil || !ok {
		return 0, err
	}
	done, groups := uint64(math.MaxUint64), 0
	err = b.eachGroup(t.ID, func(_ string, g groupRecord) error {
		done = min(done, g.Done)
		groups++
		return nil
	})
	if err != nil || groups == 0 || t.First > done || limit <= 0 {
		return 0, err
	}
	removed := 0
	for ; removed < limit && t.First <= done && t.First <= t.Last; removed++ {
		if err := b.dropFirst(&t); err != nil {
			return removed, err
		}
	}
	return removed, b.putTopic(topic, t)
}

func (b *buckets) dropFirst(t *topicRecord) error {
	key := sequenceKey(t.ID, t.First)
	t.Bytes -= int64(len(b.log().Get(key)))
	t.First++
	return b.log().Delete(key)
}
