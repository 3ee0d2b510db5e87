package boltengine

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func deadKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func (b *buckets) bury(r deadRecord) error {
	id, err := b.dead().NextSequence()
	if err != nil {
		return err
	}
	return put(b.dead(), deadKey(id), r)
}

func (b *buckets) deadRecord(id uint64) (deadRecord, bool, error) {
	raw := b.dead().Get(deadKey(id))
	if raw == nil {
		return deadRecord{}, false, nil
	}
	var r deadRecord
	if err := decode(raw, &r); err != nil {
		return r, false, fmt.Errorf("dead letter %d: %w", id, err)
	}
	return r, true, nil
}

func (r *deadRecord) deadLetter(id uint64) (pubsub.DeadLetter, error) {
	event, err := decodeEvent(r.Event, r.Topic, r.Sequence)
	if err != nil {
		return pubsub.DeadLetter{}, fmt.Errorf("dead letter %d: %w", id, err)
	}
	return pubsub.DeadLetter{
		ID:      id,
		Group:   r.Group,
		Event:   event,
		History: historyFromRecord(r.History),
		Reason:  pubsub.Reason(r.Reason),
		Time:    time.Unix(0, r.Time),
	}, nil
}

// removeDead forgets a group's dead letters of a topic.
func (b *buckets) removeDead(topic, group string) error {
	var keys [][]byte
	err := b.dead().ForEach(func(k, v []byte) error {
		var r deadRecord
		if err := decode(v, &r); err != nil {
			return err
		}
		if r.Topic == topic && r.Group == group {
			keys = append(keys, append([]byte(nil), k...))
		}
		return nil
	})
	for _, k := range keys {
		if err == nil {
			err = b.dead().Delete(k)
		}
	}
	return err
}

// DeadLetters implements pubsub.Engine.
func (e *Engine) DeadLetters(ctx context.Context, filter pubsub.DeadLetterFilter) (found []pubsub.DeadLetter, err error) {
	text := strings.ToLower(filter.Text)
	err = e.read(func(b *buckets) error {
		c := b.dead().Cursor()
		for k, v := c.Seek(deadKey(filter.After + 1)); k != nil && len(found) < filter.Limit; k, v = c.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			var r deadRecord
			id := binary.BigEndian.Uint64(k)
			if err := decode(v, &r); err != nil {
				return fmt.Errorf("dead letter %d: %w", id, err)
			}
			if filter.Topic != "" && r.Topic != filter.Topic || filter.Group != "" && r.Group != filter.Group || r.Time < nanos(filter.Since) {
				continue
			}
			d, err := r.deadLetter(id)
			if err != nil {
				return err
			}
			if text == "" || mentions(&d, text) {
				found = append(found, d)
			}
		}
		return nil
	})
	return found, err
}

func mentions(d *pubsub.DeadLetter, text string) bool {
	if strings.Contains(strings.ToLower(d.Event.ID), text) || strings.Contains(strings.ToLower(string(d.Event.Data)), text) {
		return true
	}
	for _, a := range d.History.Attempts {
		if strings.Contains(strings.ToLower(a.Error), text) {
			return true
		}
	}
	return false
}

// DeadLetter implements pubsub.Engine.
func (e *Engine) DeadLetter(_ context.Context, id uint64) (d pubsub.DeadLetter, err error) {
	err = e.read(func(b *buckets) error {
		r, ok, err := b.deadRecord(id)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("dead letter %d: %w", id, pubsub.ErrNotFound)
		}
		d, err = r.deadLetter(id)
		return err
	})
	return d, err
}

// Redrive implements pubsub.Engine.
func (e *Engine) Redrive(ctx context.Context, ids []uint64) (moved []pubsub.DeadLetter, err error) {
	err = e.update(ctx, false, func(_ *bbolt.Tx, b *buckets) error {
		moved = nil
		for _, id := range ids {
			r, ok, err := b.deadRecord(id)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			t, g, ok, err := b.find(r.Topic, r.Group)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			d, err := r.deadLetter(id)
			if err != nil {
				return err
			}
			order, err := b.retry().NextSequence()
			if err != nil {
				return err
			}
			key := pubsub.RetryKey{Redriven: true, Order: int64(order), Sequence: r.Sequence}
			record := retryRecord{Event: r.Event, History: historyRecord{Redriven: r.History.Redriven + 1}, After: t.Last}
			if err := put(b.retry(), retryKey(g.ID, key), record); err != nil {
				return err
			}
			if err := b.dead().Delete(deadKey(id)); err != nil {
				return err
			}
			moved = append(moved, d)
		}
		if len(moved) == 0 {
			return errUnchanged
		}
		return nil
	})
	return moved, err
}

// Purge implements pubsub.Engine.
func (e *Engine) Purge(ctx context.Context, ids []uint64) (purged int, err error) {
	err = e.update(ctx, false, func(_ *bbolt.Tx, b *buckets) error {
		purged = 0
		for _, id := range ids {
			if b.dead().Get(deadKey(id)) == nil {
				continue
			}
			if err := b.dead().Delete(deadKey(id)); err != nil {
				return err
			}
			purged++
		}
		if purged == 0 {
			return errUnchanged
		}
		return nil
	})
	return purged, err
}
