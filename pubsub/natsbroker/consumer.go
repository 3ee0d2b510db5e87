package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pollFor is how long one request for events waits for them. It is not cut off, since what comes too late for it would be
// missing until serverAckWait has passed; so it is also how long a stream may take to end.
const pollFor = 2 * time.Second

// fetchBytes is what one request is to bring in bytes, unless one event has more: a server gives up a connection that lets
// 64 MiB (max_pending) wait, and what was on its way comes again after serverAckWait, out of order. A request cannot say so
// itself (max_bytes): replicated consumers answer that it has ended before they send what it was for.
const fetchBytes = 4 << 20

// consumer names a durable consumer: a group's share of one partition of a topic.
type consumer struct{ topic, group, partition string }

func (c consumer) name() string { return groupHash(c.topic, c.group) + "_" + c.partition }

// consumersOf lists those of a group and a topic.
func consumersOf(topic topicRecord, group string, ordered bool) []consumer {
	if ordered {
		return []consumer{{topic.Topic, group, allPartition}}
	}
	all := []consumer{{topic.Topic, group, noPartition}}
	for i := 0; topic.Keyed && i < Partitions; i++ {
		all = append(all, consumer{topic.Topic, group, strconv.Itoa(i)})
	}
	return all
}

// subjects are the events of a consumer: those of the topic, and the group's redriven ones behind them.
func (b *Broker) subjects(c consumer) []string {
	partition := c.partition
	if partition == allPartition {
		partition = "*"
	}
	return []string{b.layout.subject("e", hash(c.topic), partition), b.layout.subject("r", groupHash(c.topic, c.group), partition)}
}

// open returns the consumer, which it makes if it is missing.
func (b *Broker) open(ctx context.Context, c consumer) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found, err := b.stream.Consumer(ctx, c.name())
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return found, err
	}
	b.mu.Lock()
	group, owed := b.groupsOf(c.topic)[c.group]
	b.mu.Unlock()
	if !owed {
		return nil, pubsub.ErrNotFound
	}
	config := jetstream.ConsumerConfig{
		Durable:        c.name(),
		FilterSubjects: b.subjects(c),
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        serverAckWait,
		MaxDeliver:     -1,
		MaxAckPending:  1,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
	}
	if c.partition == noPartition {
		config.MaxAckPending = -1
	}
	if group.After > 0 {
		if _, err := b.isSameStream(ctx); err != nil {
			return nil, err
		}
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, group.After+1
	}
	found, err = b.stream.CreateConsumer(ctx, config)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return b.stream.Consumer(ctx, c.name())
	}
	return found, err
}

// feed brings a consumer's events to the stream while that has room, until it is closed.
func (s *subscription) feed(c consumer) {
	b := s.broker
	var from jetstream.Consumer
	fit, largest := 1, 1 // how many events a request may bring, by the largest so far; few, while few have come
	for {
		n, open := s.waitForRoom()
		if !open {
			return
		}
		if c.partition != noPartition {
			n = 1
		}
		err := error(nil)
		if from == nil {
			from, err = b.open(s.ctx, c)
			if errors.Is(err, pubsub.ErrNotFound) {
				// The group was removed just as the stream was opened: it begins anew.
				err = b.boundedly(s.ctx, func(ctx context.Context) error { return b.ensureOwed(ctx, s.opts) })
				if err == nil {
					continue
				}
			}
		}
		if err == nil {
			var batch jetstream.MessageBatch
			if batch, err = from.Fetch(min(n, fit), jetstream.FetchMaxWait(pollFor)); err == nil {
				for m := range batch.Messages() {
					largest = max(largest, len(m.Data()))
					fit = max(1, min(fit+1, fetchBytes/largest))
					b.take(s, c, m)
				}
				err = batch.Error()
			}
		}
		if err == nil || errors.Is(err, jetstream.ErrNoMessages) {
			continue
		}
		// Another leader, no connection, or the consumer is gone: it is asked for anew.
		from = nil
		select {
		case <-b.clock.After(2 * retryPause):
		case <-s.ctx.Done():
			return
		}
	}
}

// take looks at an event that has come, and hands it to the stream unless it must not be delivered.
func (b *Broker) take(s *subscription, c consumer, m jetstream.Msg) {
	d := b.received(s, c, m)
	if d == nil {
		return
	}
	if !d.known {
		// Nobody can tell how often it was delivered: somebody else may be able to.
		s.undelivered(func() { b.putBack(d) })
		return
	}
	now := b.clock.Now()
	switch {
	case d.history.Ended:
		s.undelivered(func() { b.settle(d, pubsub.Settlement{Outcome: pubsub.Acked}) })
		return
	case s.opts.BackOff.Holds(d.history.Due, now):
		// What it brought with it is written down now, and where the servers hear of it anew.
		s.undelivered(func() {
			b.settle(d, pubsub.Settlement{Outcome: pubsub.Retried, History: d.history.History, Due: d.history.Due})
		})
		return
	}
	if end, ends := pubsub.EndUndelivered(&d.Event, d.history.History, b.agesAt(d), s.opts.DeadLetterExpired, b.clock); ends {
		s.undelivered(func() { b.settle(d, end) })
		return
	}
	s.arrive(d)
}

// undelivered ends an event that was not handed over.
func (s *subscription) undelivered(end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settling++
	end()
}

// received makes a delivery of a message, with its history.
func (b *Broker) received(s *subscription, c consumer, m jetstream.Msg) *delivery {
	meta, err := m.Metadata()
	if err != nil {
		return nil // not an event
	}
	header := m.Headers()
	data := unpackRecords(header, m.Data())
	d := &delivery{broker: b, stream: s, consumer: c, reply: m.Reply(), header: header.Get(headerEvent), known: true}
	d.Event = eventOf(c.topic, meta.Sequence.Stream, header, data)
	d.history = givenHistory(header)
	b.mu.Lock()
	d.heard = b.clock.Now()
	b.opts.Budget.Exceed(d.bytes())
	b.inFlight[d] = struct{}{}
	b.mu.Unlock()
	if meta.NumDelivered > 1 {
		d.known = b.readHistory(d) == nil
	}
	d.Count = d.history.Deliveries + 1
	return d
}

// givenHistory is what an event brings with it that was redriven, or copied from elsewhere.
func givenHistory(header nats.Header) (h historyRecord) {
	if text := header.Get(headerHistory); text != "" {
		// What cannot be read counts as no history.
		_ = json.Unmarshal([]byte(text), &h)
		return h
	}
	h.Redriven, _ = strconv.Atoi(header.Get(headerRedriven))
	return h
}

// readHistory finds out what became of earlier deliveries.
func (b *Broker) readHistory(d *delivery) error {
	ctx, cancel := b.bounded(b.ctx)
	defer cancel()
	found, err := b.readLast(ctx, d.historySubject())
	if err != nil || found == nil {
		return err
	}
	d.historySequence = found.Sequence
	// What cannot be read counts as no history: the event must not wait for ever.
	_ = json.Unmarshal(found.Data, &d.history)
	return nil
}

// agesAt returns when an event is older than its topic keeps it: see pubsub.AgesAt.
func (b *Broker) agesAt(d *delivery) time.Time {
	b.mu.Lock()
	most := b.topics[d.consumer.topic].MaxAge
	b.mu.Unlock()
	if d.Event.Unreadable != "" {
		return time.Time{}
	}
	return pubsub.AgesAt(most, d.Event.AvailableAt(), d.history.Redriven)
}
