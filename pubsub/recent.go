package pubsub

import (
	"context"
	"slices"
)

// What a broker remembers of events that were published lately, whoever has handled them since.
const (
	maxRecent      = 1024
	maxRecentBytes = 2 << 20
)

// recentEvents are the newest events of all topics, for groups that keep up with their topic, which need not read them from
// the engine, and for people to look at. The broker's lock guards them.
type recentEvents struct {
	events  []recentEvent // the oldest first
	byPlace map[eventPlace]*Event
	bytes   int
	// watches are who wants to see each new event.
	watches map[*watch]struct{}
}

type eventPlace struct {
	topic    string
	sequence uint64
}

// recentEvent has what it takes to drop the event, which by then is no longer in the processor's cache.
type recentEvent struct {
	eventPlace
	size  int
	event *Event
}

// watch is a Watch of a Broker.
type watch struct {
	broker *Broker
	topic  string
	events chan Event
	missed uint64
}

// Watch implements Inspector.
func (b *Broker) Watch(_ context.Context, topic string) (Watch, error) {
	w := &watch{broker: b, topic: topic, events: make(chan Event, WatchBuffer)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent.watches[w] = struct{}{}
	return w, nil
}

// Events implements Watch.
func (w *watch) Events() <-chan Event { return w.events }

// Missed implements Watch.
func (w *watch) Missed() (n uint64) {
	w.broker.mu.Lock()
	defer w.broker.mu.Unlock()
	n, w.missed = w.missed, 0
	return n
}

// Close implements Watch.
func (w *watch) Close() {
	w.broker.mu.Lock()
	defer w.broker.mu.Unlock()
	delete(w.broker.recent.watches, w)
}

// add takes an event that was published.
func (r *recentEvents) add(e Event) {
	for w := range r.watches {
		if w.topic != e.Topic {
			continue
		}
		select {
		case w.events <- e:
		default:
			w.missed++
		}
	}
	size := e.size()
	if e.Sequence == 0 || size > maxRecentBytes {
		return
	}
	for len(r.events) == maxRecent || len(r.events) > 0 && r.bytes+size > maxRecentBytes {
		r.drop(&r.events[0])
		r.events[0].event = nil
		r.events = r.events[1:]
	}
	place := eventPlace{e.Topic, e.Sequence}
	r.events = append(r.events, recentEvent{place, size, &e})
	r.byPlace[place] = &e
	r.bytes += size
}

func (r *recentEvents) drop(e *recentEvent) {
	delete(r.byPlace, e.eventPlace)
	r.bytes -= e.size
}

// following returns the events of a topic right after a sequence, without a gap, as far as they are known: at most limit of
// them, and no more than the first once they pass maxBytes.
func (r *recentEvents) following(topic string, after uint64, limit, maxBytes int) (found []Event) {
	for size := 0; len(found) < limit; after++ {
		e := r.byPlace[eventPlace{topic, after + 1}]
		if e == nil {
			return found
		}
		if size += len(e.Data); len(found) > 0 && size > maxBytes {
			return found
		}
		found = append(found, *e)
	}
	return found
}

// of returns those of a topic before a sequence, the newest first.
func (r *recentEvents) of(topic string, before uint64) (found []Event) {
	for _, e := range slices.Backward(r.events) {
		if e.topic == topic && e.sequence < before {
			found = append(found, *e.event)
		}
	}
	return found
}

// forget drops those of a topic that was removed, whose sequences begin anew.
func (r *recentEvents) forget(topic string) {
	r.events = slices.DeleteFunc(r.events, func(e recentEvent) bool {
		if e.topic == topic {
			r.drop(&e)
		}
		return e.topic == topic
	})
}
