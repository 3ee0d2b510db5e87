package boltengine

import (
	"bytes"
	"context"
	"slices"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// maxTrim bounds the events that leave a topic in one transaction.
const maxTrim = 4096

// Settle implements pubsub.Engine.
func (e *Engine) Settle(ctx context.Context, topic, group string, settlements []pubsub.Settlement) (gone []int, err error) {
	of := groupName{topic, group}
	err = e.updateDeferred(ctx, func(b *buckets) error {
		gone = nil
		t, g, ok, err := b.find(topic, group)
		if err != nil || !ok {
			// The group was removed: nobody asks what became of its events.
			return err
		}
		before, done := t, g.Done
		var settled []uint64
		for i := range settlements {
			s := &settlements[i]
			if s.Retry == nil {
				settled = append(settled, s.Sequence)
			}
			there, err := b.settle(of, &t, g, s)
			if err != nil {
				return err
			}
			if !there {
				gone = append(gone, i)
			}
		}
		if err := b.markDone(&g, settled); err != nil {
			return err
		}
		if g.Done != done {
			if err := b.putGroup(t.ID, group, g); err != nil {
				return err
			}
			if err := b.trim(&t, newBudget(maxTrim)); err != nil {
				return err
			}
		}
		if t != before {
			b.putTopic(topic, t)
		}
		return nil
	})
	return gone, err
}

// settle moves an event from the log or from the retries to where its settlement says. An event that is no longer there
// was swept away meanwhile, and is a dead letter by now: that changes nothing.
func (b *buckets) settle(of groupName, t *topicRecord, g groupRecord, s *pubsub.Settlement) (there bool, err error) {
	var event []byte
	if s.Retry == nil {
		if ends := s.Outcome == pubsub.Acked || s.Outcome == pubsub.Expired; ends || s.Sequence <= g.Done {
			return s.Sequence > g.Done, nil
		}
		if event = b.log().Get(sequenceKey(t.ID, s.Sequence)); event == nil {
			return false, nil
		}
	} else {
		r, ok, err := b.takeRetry(t, retryKey(g.ID, *s.Retry))
		if err != nil || !ok {
			return false, err
		}
		event = r.Event
	}
	switch s.Outcome {
	case pubsub.Retried:
		key := pubsub.RetryKey{Order: s.Due.UnixNano(), Sequence: s.Sequence}
		return true, b.putRetry(t, g.ID, key, retryRecord{Event: event, History: historyToRecord(s.History)})
	case pubsub.Dead:
		return true, b.bury(of, s.Sequence, event, historyToRecord(s.History), s.Reason, s.At)
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
			key := sequenceKey(g.ID, sequence)
			if b.done().Get(key) == nil {
				b.count(doneOf(g.ID), 1)
			}
			if err := b.done().Put(key, []byte{}); err != nil {
				return err
			}
		}
	}
	return b.absorbDone(g)
}

// absorbDone moves the mark over what was noted right above it.
func (b *buckets) absorbDone(g *groupRecord) error {
	var absorbed [][]byte
	for k := range under(b.done(), idKey(g.ID)) {
		sequence := sequenceOf(k)
		if sequence > g.Done+1 {
			break
		}
		g.Done = max(g.Done, sequence)
		absorbed = append(absorbed, bytes.Clone(k))
	}
	b.count(doneOf(g.ID), -len(absorbed))
	return deleteAll(b.done(), absorbed)
}
