package boltengine

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// bury makes an event a dead letter of the group.
func (b *buckets) bury(of groupName, sequence uint64, event []byte, history historyRecord, reason pubsub.Reason, at time.Time) error {
	r := deadRecord{
		Topic: of.topic, Group: of.group, Sequence: sequence, Event: event, History: history,
		Reason: string(reason), Time: at.UnixNano(),
	}
	raw, err := encode(&r, len(event))
	if err != nil {
		return err
	}
	id, err := b.dead().NextSequence()
	if err != nil {
		return err
	}
	b.count(deadOf(of.topic, of.group), 1)
	return b.dead().Put(deadKey(id), raw)
}

// deadLetter returns the dead letter. Whatever it died of, that it cannot be read is what counts from then on.
func (r deadRecord) deadLetter(id uint64) pubsub.DeadLetter {
	d := pubsub.DeadLetter{
		ID:      id,
		Group:   r.Group,
		Event:   decodeEvent(r.Event, r.Topic, r.Sequence),
		History: historyFromRecord(r.History),
		Reason:  pubsub.Reason(r.Reason),
		Time:    fromNanos(r.Time),
	}
	if d.Event.Unreadable != "" {
		d.Reason = pubsub.ReasonUnreadable
	}
	return d
}

// maxScanBytes ends a scan of dead letters once those that it has decoded take this much.
const maxScanBytes = 8 << 20

// DeadLetters implements pubsub.Engine.
func (e *Engine) DeadLetters(ctx context.Context, filter pubsub.DeadLetterFilter, scan int) (found []pubsub.DeadLetter, next uint64, err error) {
	err = e.read(func(b *buckets) error {
		last, scanned, size := filter.After, 0, 0
		for k, v := range underFrom(b.dead(), nil, deadKey(filter.After+1)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if len(found) == filter.Limit || scan > 0 && (scanned == scan || size > maxScanBytes) {
				next = last
				return nil
			}
			last = binary.BigEndian.Uint64(k)
			scanned++
			head := decodeDeadHead(v)
			if !filter.SelectsGroup(head.Topic, head.Group) || !filter.SelectsTime(fromNanos(head.Time)) {
				continue
			}
			size += len(v)
			if d := decodeDeadRecord(v).deadLetter(last); filter.SelectsReason(d.Reason) && filter.HasText(&d) {
				found = append(found, d)
			}
		}
		return nil
	})
	return found, next, err
}

// DeadLetter implements pubsub.Engine.
func (e *Engine) DeadLetter(_ context.Context, id uint64) (d pubsub.DeadLetter, err error) {
	err = e.read(func(b *buckets) error {
		raw := b.dead().Get(deadKey(id))
		if raw == nil {
			return fmt.Errorf("dead letter %d: %w", id, pubsub.ErrNotFound)
		}
		d = decodeDeadRecord(raw).deadLetter(id)
		return nil
	})
	return d, err
}

// Redrive implements pubsub.Engine.
func (e *Engine) Redrive(ctx context.Context, ids []uint64) (moved []pubsub.DeadLetter, err error) {
	err = e.update(ctx, func(b *buckets) error {
		moved = nil
		for _, id := range ids {
			d, ok, err := b.redrive(id)
			if err != nil {
				return err
			}
			if ok {
				moved = append(moved, d)
			}
		}
		return nil
	})
	return moved, err
}

func (b *buckets) redrive(id uint64) (d pubsub.DeadLetter, ok bool, err error) {
	raw := b.dead().Get(deadKey(id))
	if raw == nil {
		return d, false, nil
	}
	r := decodeDeadRecord(raw)
	if d = r.deadLetter(id); d.Event.Unreadable != "" {
		return d, false, nil
	}
	t, g, ok, err := b.find(r.Topic, r.Group)
	if err != nil || !ok {
		return d, false, err
	}
	order, err := b.retry().NextSequence()
	if err != nil {
		return d, false, err
	}
	key := pubsub.RetryKey{Redriven: true, Order: int64(order), Sequence: r.Sequence}
	retry := retryRecord{Event: r.Event, History: historyRecord{Redriven: r.History.Redriven + 1}, After: t.Last}
	if err := b.putRetry(&t, g.ID, key, retry); err != nil {
		return d, false, err
	}
	b.putTopic(r.Topic, t)
	b.count(deadOf(r.Topic, r.Group), -1)
	return d, true, b.dead().Delete(deadKey(id))
}

// Purge implements pubsub.Engine.
func (e *Engine) Purge(ctx context.Context, ids []uint64) (purged int, err error) {
	err = e.update(ctx, func(b *buckets) error {
		purged = 0
		for _, id := range ids {
			raw := b.dead().Get(deadKey(id))
			if raw == nil {
				continue
			}
			b.countDead(raw, -1)
			if err := b.dead().Delete(deadKey(id)); err != nil {
				return err
			}
			purged++
		}
		return nil
	})
	return purged, err
}
