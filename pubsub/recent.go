package pubsub

import "slices"

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
	watches map[*Watch]struct{}
}

// Watch sees the new events of a topic as they are published, until it is closed. One that is not read in time misses some.
type Watch struct {
	broker *Broker
	topic  string
	events chan Event
	missed uint64
}

// watchBuffer is how many events a Watch may be behind.
const watchBuffer = 256

// Watch implements Inspector.
func (b *Broker) Watch(topic string) *Watch {
	w := &Watch{broker: b, topic: topic, events: make(chan Event, watchBuffer)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recent.watches == nil {
		b.recent.watches = map[*Watch]struct{}{}
	}
	b.recent.watches[w] = struct{}{}
	return w
}

// Events returns the channel of the new events.
func (w *Watch) Events() <-chan Event { return w.events }

// Missed returns how many events could not be shown since the last call.
func (w *Watch) Missed() (n uint64) {
	w.broker.mu.Lock()
	defer w.broker.mu.Unlock()
	n, w.missed = w.missed, 0
	return n
}

// Close ends the Watch.
func (w *Watch) Close() {
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
