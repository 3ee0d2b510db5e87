package pubsub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// EventState is where an event stands for a group.
type EventState string

const (
	// EventWaiting: it was not delivered yet.
	EventWaiting EventState = "waiting"
	// EventInFlight: an app instance has it and did not answer yet.
	EventInFlight EventState = "in-flight"
	// EventRetrying: a delivery has failed, and it waits for the next one.
	EventRetrying EventState = "retrying"
	// EventRedriven: it was sent back from the dead letters, and waits for its turn.
	EventRedriven EventState = "redriven"
	// EventDead: it is among the group's dead letters.
	EventDead EventState = "dead"
	// EventHandled: it was acknowledged, or its time to live has ended, or a person has purged it.
	EventHandled EventState = "handled"
	// EventNotOwed: the group began after it.
	EventNotOwed EventState = "not-owed"
	// EventUnknown: it is not waiting, and there are too many retries or dead letters to look for it.
	EventUnknown EventState = "unknown"
)

// Trace is where an event stands.
type Trace struct {
	// Event is nil where nobody is owed it any more, so that it is not kept.
	Event  *Event
	Groups []GroupTrace
}

// GroupTrace is where an event stands for a group.
type GroupTrace struct {
	Group string
	State EventState
	// Due is when the next delivery is, of EventRetrying.
	Due     time.Time
	History History
	// DeadLetter is the id, of EventDead.
	DeadLetter uint64
}

// RetryPlace is a place among the retries of a topic. The zero value is before the first.
type RetryPlace struct {
	Group string
	Key   RetryKey
}

// GroupRetry is a retry of a group.
type GroupRetry struct {
	Group string
	Retry
	// InFlight says that it is being delivered now, or is about to be.
	InFlight bool
}

// ErrInFlight refuses to change a retry that is being delivered, or is about to be.
var ErrInFlight = errors.New("it is in flight, or about to be")

const (
	// traceScan is how many retries of each group, and dead letters, are looked at for one event.
	traceScan = 10_000
	// pageBytes bounds a page of events.
	pageBytes = 4 << 20
)

// Events implements Inspector.
func (b *Broker) Events(ctx context.Context, topic string, before uint64, limit int) (events []Event, next uint64, err error) {
	stats, err := b.engine.TopicStats(ctx, topic)
	if err != nil {
		return nil, 0, err
	}
	if before == 0 || before > stats.LastSequence {
		before = stats.LastSequence + 1
	}
	if events, err = b.engine.Events(ctx, topic, before, limit, pageBytes); err != nil {
		return nil, 0, err
	}
	if n := len(events); n > 0 {
		before = events[n-1].Sequence
	}
	if first := stats.LastSequence + 1 - stats.Stored; stats.Stored > 0 && before > first {
		return events, before, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.recent.of(topic, before) {
		if len(events) == limit {
			return events, events[limit-1].Sequence, nil
		}
		events = append(events, e)
	}
	return events, 0, nil
}

// Trace implements Inspector.
func (b *Broker) Trace(ctx context.Context, topic string, sequence uint64) (Trace, error) {
	t, err := b.engine.Trace(ctx, topic, sequence, traceScan)
	if err != nil {
		return t, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.Event == nil {
		t.Event = b.recent.byPlace[eventPlace{topic, sequence}]
	}
	for i := range t.Groups {
		g := b.groups[topic][t.Groups[i].Group]
		if g != nil && t.Groups[i].State != EventDead && g.hasInFlight(func(d *delivery) bool { return d.Event.Sequence == sequence }) {
			t.Groups[i].State = EventInFlight
		}
	}
	return t, nil
}

// hasInFlight is called with the broker's lock held.
func (g *group) hasInFlight(is func(*delivery) bool) bool {
	return slices.ContainsFunc(g.streams, func(s *subscription) bool {
		return slices.ContainsFunc(s.inFlight, func(d *delivery) bool { return d.group == g && is(d) })
	})
}

// Retries implements Inspector.
func (b *Broker) Retries(ctx context.Context, topic string, from RetryPlace, limit int) (retries []GroupRetry, next RetryPlace, err error) {
	if retries, next, err = b.engine.Retries(ctx, topic, from, limit, pageBytes); err != nil {
		return nil, next, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range retries {
		r := &retries[i]
		if g := b.groups[topic][r.Group]; g != nil {
			r.InFlight = g.hasInFlight(func(d *delivery) bool { return d.retry != nil && *d.retry == r.Key })
		}
	}
	return retries, next, nil
}

// RetryNow implements Inspector.
func (b *Broker) RetryNow(ctx context.Context, topic, name string, sequence uint64) error {
	return b.onRetry(ctx, groupName{topic, name}, sequence, func(key RetryKey, live *group) error {
		if key.Redriven {
			return fmt.Errorf("event %d of topic %q was redriven and waits for its turn in group %q, not for a time: %w", sequence, topic, name, ErrInFlight)
		}
		now := b.clock.Now()
		if err := b.engine.MoveRetry(ctx, topic, name, key, now); err != nil || live == nil {
			return err
		}
		b.mu.Lock()
		live.nextRetry = now
		b.mu.Unlock()
		return nil
	})
}

// SkipRetry implements Inspector.
func (b *Broker) SkipRetry(ctx context.Context, topic, name string, sequence uint64) error {
	return b.onRetry(ctx, groupName{topic, name}, sequence, func(key RetryKey, live *group) error {
		event, err := b.engine.BuryRetry(ctx, topic, name, key, ReasonSkipped, b.clock.Now())
		if err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.counts(groupName{topic, name}).DeadLettered[ReasonSkipped]++
		if live == nil {
			return nil
		}
		delete(live.late, sequence)
		live.setRetrying(event.PartitionKey, !key.Redriven, false)
		live.letGo(live.partitions.whenFree(event.PartitionKey))
		live.deliver()
		return nil
	})
}

// onRetry finds the retry of an event and calls do while nobody else works on the group's retries. live is nil where the
// group has no streams.
func (b *Broker) onRetry(ctx context.Context, name groupName, sequence uint64, do func(key RetryKey, live *group) error) error {
	find := func() (RetryKey, error) {
		key, err := b.engine.FindRetry(ctx, name.topic, name.group, sequence, traceScan)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("group %q has no retry of event %d of topic %q: %w", name.group, sequence, name.topic, err)
		}
		return key, err
	}
	for {
		var live *group
		err := b.lockGroup(ctx, name, func() error {
			if live = b.groups[name.topic][name.group]; live != nil {
				return ErrInFlight
			}
			return nil
		})
		if live == nil {
			if err != nil {
				return err
			}
			defer b.unlockGroup(name)
			key, err := find()
			if err != nil {
				return err
			}
			return do(key, nil)
		}
		asked, err := live.loader.ask(ctx, func() error {
			key, err := find()
			if err != nil {
				return err
			}
			b.mu.Lock()
			live.loader.forgetIdle()
			b.mu.Unlock()
			if live.loader.isBusy(key) {
				return fmt.Errorf("event %d of topic %q for group %q: %w", sequence, name.topic, name.group, ErrInFlight)
			}
			return do(key, live)
		})
		if asked || err != nil {
			return err
		}
	}
}
