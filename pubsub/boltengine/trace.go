package boltengine

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Events implements pubsub.Engine. Sequences have no gaps, so that it need not walk backwards.
func (e *Engine) Events(ctx context.Context, topic string, before uint64, limit, maxBytes int) (events []pubsub.Event, err error) {
	err = e.read(func(b *buckets) error {
		t, ok, err := b.topic(topic)
		if err != nil || !ok {
			return err
		}
		size := 0
		for sequence := min(before, t.Last+1) - 1; sequence >= t.First && sequence > 0 && len(events) < limit; sequence-- {
			raw := b.log().Get(sequenceKey(t.ID, sequence))
			if size += len(raw); len(events) > 0 && size > maxBytes {
				return nil
			}
			if raw != nil {
				events = append(events, decodeEvent(raw, topic, sequence))
			}
		}
		return ctx.Err()
	})
	return events, err
}

// Trace implements pubsub.Engine.
func (e *Engine) Trace(ctx context.Context, topic string, sequence uint64, scan int) (trace pubsub.Trace, err error) {
	err = e.read(func(b *buckets) error {
		t, ok, err := b.topic(topic)
		if err != nil {
			return err
		}
		if !ok || sequence == 0 || sequence > t.Last {
			return fmt.Errorf("event %d of topic %q: %w", sequence, topic, pubsub.ErrNotFound)
		}
		if raw := b.log().Get(sequenceKey(t.ID, sequence)); raw != nil {
			event := decodeEvent(raw, topic, sequence)
			trace.Event = &event
		}
		groups, err := b.groupsOf(t.ID)
		if err != nil {
			return err
		}
		dead, missing := e.findDead(b, topic, groups, sequence, scan)
		for _, g := range groups {
			found := pubsub.GroupTrace{Group: g.name, State: pubsub.EventWaiting}
			var event *pubsub.Event
			if sequence <= g.After {
				found.State = pubsub.EventNotOwed
			} else if sequence <= g.Done || b.done().Get(sequenceKey(g.ID, sequence)) != nil {
				key, err := b.findRetry(g.ID, sequence, scan)
				switch d, isDead := dead[g.name]; {
				case err == nil:
					event = b.traceRetry(&found, topic, g, key)
				case !errors.Is(err, errScanned) && !errors.Is(err, pubsub.ErrNotFound):
					return err
				case isDead:
					found.State, found.DeadLetter, found.History = pubsub.EventDead, d.ID, d.History
					event = &d.Event
				case missing[g.name], errors.Is(err, errScanned):
					found.State = pubsub.EventUnknown
				default:
					found.State = pubsub.EventHandled
				}
			}
			trace.Event = cmp.Or(trace.Event, event)
			trace.Groups = append(trace.Groups, found)
		}
		return ctx.Err()
	})
	return trace, err
}

// traceRetry says where an event is that is among the retries, and returns it.
func (b *buckets) traceRetry(found *pubsub.GroupTrace, topic string, g namedGroup, key pubsub.RetryKey) *pubsub.Event {
	r := decodeRetry(b.retry().Get(retryKey(g.ID, key)), topic, key)
	found.State, found.History = pubsub.EventRedriven, r.History
	if !key.Redriven {
		found.State, found.Due = pubsub.EventRetrying, time.Unix(0, key.Order)
	}
	return &r.Event
}

// findDead returns the newest dead letter of an event by group, of the newest dead letters, and the groups of which there
// may be an older one. It does not look for those of groups that have none: the number may be ahead of the snapshot, by
// what is redriven or purged just now.
func (e *Engine) findDead(b *buckets, topic string, groups []namedGroup, sequence uint64, scan int) (found map[string]pubsub.DeadLetter, missing map[string]bool) {
	found, missing = map[string]pubsub.DeadLetter{}, map[string]bool{}
	for _, g := range groups {
		if e.counts.get(deadOf(topic, g.name)) > 0 {
			missing[g.name] = true
		}
	}
	c := b.dead().Cursor()
	k, v := c.Last()
	for n := 0; k != nil && len(missing) > 0; k, v = c.Prev() {
		if n++; n > scan {
			return found, missing
		}
		if head := decodeDeadHead(v); head.Topic == topic && head.Sequence == sequence && missing[head.Group] {
			delete(missing, head.Group)
			found[head.Group] = decodeDeadRecord(v).deadLetter(binary.BigEndian.Uint64(k))
		}
	}
	return found, nil
}

// errScanned means that there are too many records to look through.
var errScanned = errors.New("not among those that were looked at")

// findRetry returns the key of a group's retry of an event.
func (b *buckets) findRetry(group uint32, sequence uint64, scan int) (pubsub.RetryKey, error) {
	n := 0
	for k := range under(b.retry(), idKey(group)) {
		if n++; n > scan {
			return pubsub.RetryKey{}, errScanned
		}
		if _, key, err := parseRetryKey(k); err != nil || key.Sequence == sequence {
			return key, err
		}
	}
	return pubsub.RetryKey{}, pubsub.ErrNotFound
}

// FindRetry implements pubsub.Engine.
func (e *Engine) FindRetry(_ context.Context, topic, group string, sequence uint64, scan int) (key pubsub.RetryKey, err error) {
	err = e.read(func(b *buckets) error {
		_, g, ok, err := b.find(topic, group)
		if err == nil && !ok {
			err = pubsub.ErrNotFound
		}
		if err == nil {
			key, err = b.findRetry(g.ID, sequence, scan)
		}
		if errors.Is(err, errScanned) {
			err = fmt.Errorf("%w: it is not among the first %d retries", pubsub.ErrNotFound, scan)
		}
		return err
	})
	return key, err
}

// Retries implements pubsub.Engine.
func (e *Engine) Retries(ctx context.Context, topic string, from pubsub.RetryPlace, limit, maxBytes int) (retries []pubsub.GroupRetry, next pubsub.RetryPlace, err error) {
	err = e.read(func(b *buckets) error {
		t, ok, err := b.topic(topic)
		if err == nil && !ok {
			err = fmt.Errorf("topic %q: %w", topic, pubsub.ErrNotFound)
		}
		if err != nil {
			return err
		}
		groups, err := b.groupsOf(t.ID)
		if err != nil {
			return err
		}
		size := 0
		for _, g := range groups {
			if g.name < from.Group {
				continue
			}
			prefix := idKey(g.ID)
			seek := prefix
			if g.name == from.Group {
				seek = retryKey(g.ID, from.Key)
			}
			for k, v := range underFrom(b.retry(), prefix, seek) {
				_, key, err := parseRetryKey(k)
				if err != nil {
					return err
				}
				if size += len(v); len(retries) == limit || len(retries) > 0 && size > maxBytes {
					next = pubsub.RetryPlace{Group: g.name, Key: key}
					return nil
				}
				retries = append(retries, pubsub.GroupRetry{Group: g.name, Retry: decodeRetry(v, topic, key)})
			}
		}
		return ctx.Err()
	})
	return retries, next, err
}

// MoveRetry implements pubsub.Engine.
func (e *Engine) MoveRetry(ctx context.Context, topic, group string, key pubsub.RetryKey, due time.Time) error {
	return e.changeRetry(ctx, topic, group, key, func(b *buckets, t *topicRecord, g groupRecord, r retryRecord) error {
		moved := pubsub.RetryKey{Order: due.UnixNano(), Sequence: key.Sequence}
		return b.putRetry(t, g.ID, moved, r)
	})
}

// BuryRetry implements pubsub.Engine.
func (e *Engine) BuryRetry(ctx context.Context, topic, group string, key pubsub.RetryKey, reason pubsub.Reason, now time.Time) (event pubsub.Event, err error) {
	err = e.changeRetry(ctx, topic, group, key, func(b *buckets, _ *topicRecord, _ groupRecord, r retryRecord) error {
		event = decodeEvent(r.Event, topic, key.Sequence)
		return b.bury(groupName{topic, group}, key.Sequence, r.Event, r.History, reason, now)
	})
	return event, err
}

// changeRetry takes a retry away and has change put it elsewhere.
func (e *Engine) changeRetry(ctx context.Context, topic, group string, key pubsub.RetryKey, change func(*buckets, *topicRecord, groupRecord, retryRecord) error) error {
	return e.update(ctx, func(b *buckets) error {
		t, g, ok, err := b.find(topic, group)
		var r retryRecord
		if err == nil && ok {
			r, ok, err = b.takeRetry(&t, retryKey(g.ID, key))
		}
		if err != nil {
			return err
		}
		if !ok {
			return refusal{fmt.Errorf("retry of event %d for group %q: %w", key.Sequence, group, pubsub.ErrNotFound)}
		}
		if err := change(b, &t, g, r); err != nil {
			return err
		}
		b.putTopic(topic, t)
		return nil
	})
}
