package natsbroker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// standing is where an event stands for a group, as the servers know it.
type standing struct {
	pubsub.GroupTrace
	// record is the history, at the sequence at; zero: there is none.
	record historyRecord
	at     uint64
}

// Trace implements pubsub.Inspector. What is in flight in another process cannot be told from what is handled there, unless
// its group takes one event at a time.
func (b *Broker) Trace(ctx context.Context, topic string, sequence uint64) (t pubsub.Trace, err error) {
	_, groups, err := b.topic(topic)
	if err != nil {
		return t, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	stored, partition, err := b.event(ctx, topic, sequence)
	if err != nil {
		return t, err
	}
	redrivenBy := ""
	if stored != nil {
		event := eventOf(topic, sequence, stored.header, stored.Data)
		t.Event = &event
		if parts := b.layout.parts(stored.Subject); parts[0] == "r" {
			redrivenBy = parts[1]
		}
	}
	for _, g := range groups {
		if redrivenBy != "" && redrivenBy != groupHash(topic, g.Group) {
			continue
		}
		s, letter, err := b.standing(ctx, topic, g, sequence)
		if err != nil {
			return t, err
		}
		if s.State == "" && t.Event != nil {
			if s.State, err = b.undelivered(ctx, topic, g, partition, sequence, redrivenBy != ""); err != nil {
				return t, err
			}
		}
		if letter != nil && t.Event == nil {
			t.Event = &letter.Event
		}
		if s.State != "" {
			t.Groups = append(t.Groups, s.GroupTrace)
		}
	}
	if t.Event == nil && len(t.Groups) == 0 {
		return t, fmt.Errorf("event %d of topic %q is not kept, nor a retry or a dead letter of a group: %w", sequence, topic, pubsub.ErrNotFound)
	}
	return t, nil
}

// event reads an event of a topic, or a redriven one of its groups, by its sequence; nil: it is not kept.
func (b *Broker) event(ctx context.Context, topic string, sequence uint64) (m *stored, partition string, err error) {
	if m, err = b.readSequence(ctx, sequence); err != nil || m == nil {
		return nil, "", err
	}
	parts := b.layout.parts(m.Subject)
	if parts[0] == "e" && parts[1] == hash(topic) || parts[0] == "r" && eventOf("", 0, m.header, nil).Topic == topic {
		return m, parts[2], nil
	}
	return nil, "", nil
}

// standing looks for what a group has written down of an event. The State is empty if that is nothing.
func (b *Broker) standing(ctx context.Context, topic string, g groupRecord, sequence uint64) (s standing, letter *pubsub.DeadLetter, err error) {
	s.Group = g.Group
	name, number := groupHash(topic, g.Group), sequenceText(sequence)
	dead, err := b.readLast(ctx, b.layout.subject("x", name, number))
	if err != nil {
		return s, nil, err
	}
	if dead != nil {
		if d, is := b.deadLetter(dead.Subject, dead.Sequence, dead.header, dead.Data); is {
			s.State, s.History, s.DeadLetter = pubsub.EventDead, d.History, d.ID
			return s, &d, nil
		}
	}
	history, err := b.readLast(ctx, b.layout.subject("h", name, number))
	if err != nil {
		return s, nil, err
	}
	if history != nil && json.Unmarshal(history.Data, &s.record) == nil && !s.record.Ended {
		s.at = history.Sequence
		s.State, s.History, s.Due = pubsub.EventRetrying, s.record.History, s.record.Due
	}
	if b.has(topic, g.Group, sequence) {
		s.State = pubsub.EventInFlight
	}
	return s, nil, nil
}

// has reports whether this process has the event in flight for the group.
func (b *Broker) has(topic, group string, sequence uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d := range b.inFlight {
		if d.consumer.topic == topic && d.consumer.group == group && d.Event.Sequence == sequence {
			return true
		}
	}
	return false
}

// undelivered says where an event stands of which a group has written nothing down.
func (b *Broker) undelivered(ctx context.Context, topic string, g groupRecord, partition string, sequence uint64, redriven bool) (pubsub.EventState, error) {
	waiting := pubsub.EventWaiting
	if redriven {
		waiting = pubsub.EventRedriven
	}
	c := consumer{topic, g.Group, partition}
	if g.Ordered {
		c.partition = allPartition
	}
	info, err := b.info(ctx, c)
	switch {
	case err != nil:
		return "", err
	case sequence <= g.After:
		return pubsub.EventNotOwed, nil
	case info == nil || sequence > info.Delivered.Stream:
		return waiting, nil
	case sequence <= info.AckFloor.Stream || info.NumAckPending == 0:
		return pubsub.EventHandled, nil
	case c.partition == noPartition:
		return pubsub.EventUnknown, nil
	case sequence == info.Delivered.Stream:
		return pubsub.EventInFlight, nil
	}
	return pubsub.EventHandled, nil
}
