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

// recentEvents are the newest events of all topics, for people to look at. The broker's lock guards them.
type recentEvents struct {
	events []Event // the oldest first
	bytes  int
	// watches are who wants to see each new event.
	watches map[*watch]struct{}
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
	if b.recent.watches == nil {
		b.recent.watches = map[*watch]struct{}{}
	}
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
		r.bytes -= r.events[0].size()
		r.events[0] = Event{}
		r.events = r.events[1:]
	}
	r.events = append(r.events, e)
	r.bytes += size
}

// of returns those of a topic before a sequence, the newest first.
func (r *recentEvents) of(topic string, before uint64) (found []Event) {
	for _, e := range slices.Backward(r.events) {
		if e.Topic == topic && e.Sequence < before {
			found = append(found, e)
		}
	}
	return found
}

// forget drops those of a topic that was removed, whose sequences begin anew.
func (r *recentEvents) forget(topic string) {
	r.events = slices.DeleteFunc(r.events, func(e Event) bool { return e.Topic == topic })
	r.bytes = 0
	for i := range r.events {
		r.bytes += r.events[i].size()
	}
}
