package crash

import (
	"strings"
	"sync"
)

// The topics and who consumes them. Every group but the auditor consumes while the process is killed; the auditor
// subscribes before the first event and reads the whole topic at the end, so that the log keeps everything until then.
const (
	plainTopic = "plain" // without partition keys
	keyedTopic = "keyed" // each publisher's events carry its name as their partition key

	auditor = "auditor"
)

// groupSpec is a consumer group.
type groupSpec struct {
	name, topic string
	streams     int
	// settings are metadata of its component beside consumerID.
	settings []string
	// nack is the chance that a delivery is answered with an error.
	nack float64
	// poison says that some events are always answered with an error, until they are dead.
	poison bool
	// order says which events may not be overtaken; see eventBook.deliver.
	order order
}

type order int

const (
	// publishOrder: on one stream, first deliveries come by rising sequence number.
	publishOrder order = iota
	// anyOrder: streams share the group, and a retry may be late.
	anyOrder
	// strictOrder: nothing is delivered while an event before it is in flight or being retried.
	strictOrder
	// keyOrder: the same among events of one partition key.
	keyOrder
)

var groups = []groupSpec{
	{name: "single", topic: plainTopic, streams: 1, settings: []string{"maxDeliver", "0"}, nack: 0.02, order: publishOrder},
	{name: "shared", topic: plainTopic, streams: 3, settings: []string{"maxDeliver", "3"}, nack: 0.02, poison: true, order: anyOrder},
	{name: "ordered", topic: plainTopic, streams: 1, settings: []string{"maxDeliver", "0", "ordered", "true"}, nack: 0.02, order: strictOrder},
	{name: "keys", topic: keyedTopic, streams: 2, settings: []string{"maxDeliver", "0"}, nack: 0.02, order: keyOrder},
}

// event is what the clients know of one.
type event struct {
	accepted, failed bool
	topic, publisher string
	// place is which of its publisher's events on the topic it is.
	place int
	// sequence is the number under which it was seen first; zero: not yet.
	sequence string
	// audits counts how often the auditor saw it.
	audits int
}

// eventBook knows which events were accepted, and what every group got.
type eventBook struct {
	found *findings

	mu         sync.Mutex
	events     map[string]*event
	groups     map[string]*groupBook
	acceptedOf map[string]int // by topic
	duplicates int
	deliveries int
	// tried counts what each publisher has tried, and place says how far the auditor has come among it.
	tried, place map[string]int
}

// groupBook is what one group got.
type groupBook struct {
	groupSpec
	delivered map[string]bool
	// acked has the events that a consumer has acknowledged, whether or not that arrived.
	acked map[string]bool
	// hands has who holds an event now.
	hands map[string]*stream
	// open holds, by order key, the newest event that was delivered and not acknowledged since.
	open map[string]openEvent
}

type openEvent struct {
	id       string
	sequence uint64
}

// stream is one subscription during one life of the process.
type stream struct {
	// life is which life of the process it is served by; zero: a kill came in between, and nobody knows.
	life int
	// last is the highest sequence number of a first delivery.
	last uint64
}

func newEventBook(found *findings) *eventBook {
	b := &eventBook{
		found:      found,
		events:     make(map[string]*event),
		groups:     make(map[string]*groupBook),
		acceptedOf: make(map[string]int),
		tried:      make(map[string]int),
		place:      make(map[string]int),
	}
	for _, spec := range groups {
		b.groups[spec.name] = &groupBook{
			groupSpec: spec,
			delivered: make(map[string]bool),
			acked:     make(map[string]bool),
			hands:     make(map[string]*stream),
			open:      make(map[string]openEvent),
		}
	}
	return b
}

// trying notes events before their first publish. A publisher tries the next only when those before are accepted.
func (b *eventBook) trying(topic, publisher string, ids ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.tried[publisher]++
		b.events[id] = &event{topic: topic, publisher: publisher, place: b.tried[publisher]}
	}
}

// published notes a publish that was acknowledged.
func (b *eventBook) published(ids ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		e := b.events[id]
		if e.accepted {
			b.duplicates++
			continue
		}
		e.accepted = true
		b.acceptedOf[e.topic]++
	}
}

// failed notes events of which the one publish was answered with an error.
func (b *eventBook) failed(ids ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.events[id].failed = true
	}
}

// behind returns how many events of a topic the slowest group has not got yet, roughly.
func (b *eventBook) behind(topic string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	least := b.acceptedOf[topic]
	for _, g := range b.groups {
		if g.topic == topic {
			least = min(least, len(g.delivered))
		}
	}
	return b.acceptedOf[topic] - least
}

// seen judges an event that came out of the process, and returns it; nil: nobody published it.
func (b *eventBook) seen(id, sequence, topic string) *event {
	e := b.events[id]
	if e == nil || e.topic != topic {
		b.found.add(Invented, "event %q on topic %s", id, topic)
		return nil
	}
	if e.failed {
		b.found.add(Undead, "event %s", id)
	}
	if e.sequence == "" {
		e.sequence = sequence
	}
	if e.sequence != sequence {
		b.found.add(StoredTwice, "event %s has the sequence numbers %s and %s", id, e.sequence, sequence)
	}
	return e
}

// deliver judges a delivery to a group. It returns whether the consumer should fail it for good.
func (b *eventBook) deliver(group string, s *stream, id, sequence string, number uint64, count int) (poisoned bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deliveries++
	g := b.groups[group]
	e := b.seen(id, sequence, g.topic)
	if e == nil {
		return false
	}
	g.delivered[id] = true

	if other := g.hands[id]; other != nil && other != s && s.life != 0 && other.life == s.life {
		b.found.add(TwoHands, "event %s of group %s", id, group)
	}
	g.hands[id] = s

	switch g.order {
	case publishOrder:
		if count == 1 {
			if number < s.last {
				b.found.add(Overtaken, "group %s: event %s, number %d, came after number %d", group, id, number, s.last)
			}
			s.last = max(s.last, number)
		}
	case strictOrder, keyOrder:
		key := ""
		if g.order == keyOrder {
			key = e.publisher
		}
		if before, ok := g.open[key]; ok && before.id != id && before.sequence < number {
			b.found.add(Overtaken, "group %s: event %s, number %d, came while %s, number %d, was not acknowledged", group, id, number, before.id, before.sequence)
		}
		g.open[key] = openEvent{id: id, sequence: number}
	}
	return g.poison && poisonous(id)
}

// poisonous reports whether an event is one that no attempt can handle.
func poisonous(id string) bool { return strings.HasSuffix(id, "13") }

// letGo notes, before it is told, that a consumer has handled an event or failed to.
func (b *eventBook) letGo(group string, s *stream, id string, handled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.groups[group]
	if g.hands[id] == s {
		delete(g.hands, id)
	}
	if !handled {
		return
	}
	g.acked[id] = true
	for key, open := range g.open {
		if open.id == id {
			delete(g.open, key)
		}
	}
}

// audit judges an event as the auditor gets it: by rising sequence number, everything once.
func (b *eventBook) audit(topic, id, sequence string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.seen(id, sequence, topic)
	if e == nil {
		return
	}
	if e.audits++; e.audits > 1 {
		b.found.add(StoredTwice, "event %s stands in topic %s %d times", id, topic, e.audits)
		return
	}
	if before := b.place[e.publisher]; e.place < before {
		b.found.add(Overtaken, "event %s, the publisher's number %d, stands behind its number %d", id, e.place, before)
	}
	b.place[e.publisher] = e.place
}

// final judges what became of every event. dead has, by group, the ids of its dead letters.
func (b *eventBook) final(dead map[string]map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, e := range b.events {
		if !e.accepted {
			continue
		}
		if e.audits == 0 {
			b.found.add(LostEvent, "event %s was accepted and is not in topic %s", id, e.topic)
		}
		for name, g := range b.groups {
			if g.topic == e.topic && !g.delivered[id] && !dead[name][id] {
				b.found.add(Undelivered, "event %s, group %s", id, name)
			}
		}
	}
}
