package natsbroker

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// watch is a pubsub.Watch of a Broker.
type watch struct {
	consuming jetstream.ConsumeContext
	events    chan pubsub.Event
	missed    atomic.Uint64
}

// headerScheduler stands in an event that was held back, in place of the time when it was due.
const headerScheduler = "Nats-Scheduler"

// Watch implements pubsub.Inspector. It sees what all processes publish.
func (b *Broker) Watch(ctx context.Context, topic string) (pubsub.Watch, error) {
	consumer, err := b.js.OrderedConsumer(ctx, b.layout.stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{b.layout.subject("e", hash(topic), "*"), b.layout.subject("s", hash(topic), "*")},
		DeliverPolicy:  jetstream.DeliverNewPolicy,
	})
	if err != nil {
		return nil, fmt.Errorf("watch topic %q: %w", topic, err)
	}
	w := &watch{events: make(chan pubsub.Event, pubsub.WatchBuffer)}
	w.consuming, err = consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		header := m.Headers()
		if err != nil || header.Get(headerScheduler) != "" {
			return // it was seen when it was published
		}
		sequence := meta.Sequence.Stream
		if b.layout.parts(m.Subject())[0] == "s" {
			sequence = 0
		}
		select {
		case w.events <- eventOf(topic, sequence, header, unpackRecords(header, m.Data())):
		default:
			w.missed.Add(1)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch topic %q: %w", topic, err)
	}
	return w, nil
}

// Events implements pubsub.Watch.
func (w *watch) Events() <-chan pubsub.Event { return w.events }

// Missed implements pubsub.Watch.
func (w *watch) Missed() uint64 { return w.missed.Swap(0) }

// Close implements pubsub.Watch.
func (w *watch) Close() {
	w.consuming.Stop()
	<-w.consuming.Closed()
}
