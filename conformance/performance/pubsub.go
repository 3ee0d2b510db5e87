package performance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	contribpubsub "github.com/dapr/components-contrib/pubsub"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// What clients do to a broker. Every event has an id of its own.
const (
	workPublish = "publish"
	// workDeliver counts events from the first publish until the last one was handled and acknowledged, by one subscriber
	// with its component's default concurrency.
	workDeliver = "publish, deliver, ack"
	// workSteady is the time from when a publish was due to when the handler has the event, at steadyRate.
	workSteady = "1,000 events per second, publish to handler"
)

const (
	steadyRate = 1_000
	// mostEvents ends a measurement of a peer that is faster than that.
	mostEvents = 4_000_000
	// arrival is how long events may take to arrive once all are published.
	arrival = 2 * time.Minute
)

var topicNumber atomic.Int64

func newTopic() string { return fmt.Sprintf("bench.topic-%d", topicNumber.Add(1)) }

func (b *Bench) pubsub(ctx context.Context, round int) error {
	for _, size := range b.opts.Sizes {
		for _, p := range pubsubPeers() {
			if !b.present(SectionPubSub, p.name, p.missing) {
				continue
			}
			// What was published and not read is in the way of nobody: each work has a world of its own.
			for _, work := range []string{workPublish, workDeliver, workSteady} {
				err := b.inWorld(func(w *world) error {
					broker, err := startPubSub(ctx, w, p)
					if err != nil {
						return err
					}
					return b.measurePubSub(ctx, w, broker, p.name, work, size, round)
				})
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *Bench) measurePubSub(ctx context.Context, w *world, broker contribpubsub.PubSub, name, work string, size, round int) error {
	cell := Cell{Section: SectionPubSub, Work: work, Peer: name, Size: size}
	if work == workSteady {
		cell.Clients = 1
		return b.steady(ctx, w.direct(broker), cell, round)
	}
	measure := b.deliver
	if work == workPublish {
		measure = b.publish
	}
	for _, cell.Clients = range b.opts.Clients {
		if err := measure(ctx, w.direct(broker), cell, round); err != nil {
			return err
		}
	}
	return nil
}

// channel is what events pass through: a component, or sidecars with one behind them.
type channel interface {
	publish(ctx context.Context, topic string, data []byte) error
	// subscribe returns once events that are published from now on will come, until ctx ends.
	subscribe(ctx context.Context, topic string, handle func(data []byte)) error
	// settle returns once what was handled counts as acknowledged with the broker, where it can be asked.
	settle(ctx context.Context, topic string) error
}

type direct struct {
	publisher, subscriber contribpubsub.PubSub
	settled               func(ctx context.Context, topic string) error
}

// direct is a component of this world.
func (w *world) direct(broker contribpubsub.PubSub) direct {
	settled := func(context.Context, string) error { return nil }
	if w.bolt != nil {
		settled = w.settled
	}
	return direct{broker, broker, settled}
}

func (d direct) publish(ctx context.Context, topic string, data []byte) error {
	return d.publisher.Publish(ctx, &contribpubsub.PublishRequest{Topic: topic, Data: data})
}

func (d direct) subscribe(ctx context.Context, topic string, handle func([]byte)) error {
	return d.subscriber.Subscribe(ctx, contribpubsub.SubscribeRequest{Topic: topic}, func(_ context.Context, m *contribpubsub.NewMessage) error {
		handle(m.Data)
		return nil
	})
}

func (d direct) settle(ctx context.Context, topic string) error { return d.settled(ctx, topic) }

func (b *Bench) publish(ctx context.Context, c channel, cell Cell, round int) error {
	topic, events := newTopic(), newEvents(cell.Size, mostEvents)
	o := closedLoop(ctx, cell.Clients, b.opts.WarmUp, b.opts.Duration, func(ctx context.Context, _, _ int) error {
		data, _, ok := events.make()
		if !ok {
			return errNoMoreEvents
		}
		return c.publish(ctx, topic, data)
	})
	b.record(o.sample(cell, round))
	return ctx.Err()
}

var errNoMoreEvents = errors.New("all events are used up")

func (b *Bench) deliver(ctx context.Context, c channel, cell Cell, round int) error {
	topic, events := newTopic(), newEvents(cell.Size, mostEvents)
	subscription, unsubscribe := context.WithCancel(ctx)
	defer unsubscribe()
	if err := c.subscribe(subscription, topic, func(data []byte) { events.arrive(data) }); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	start := time.Now()
	o := closedLoop(ctx, cell.Clients, 0, b.opts.WarmUp+b.opts.Duration, func(ctx context.Context, _, _ int) error {
		data, _, ok := events.make()
		if !ok {
			return nil
		}
		return c.publish(ctx, topic, data)
	})
	published := int(min(events.next.Load(), int64(len(events.arrived)))) - o.errors
	err := b.arrive(ctx, events, published)
	if err == nil {
		err = c.settle(ctx, topic)
	}
	if err != nil {
		b.record(Sample{Cell: cell, Round: round, Error: err.Error()})
		return ctx.Err()
	}
	o.done, o.elapsed = published, time.Since(start)
	b.record(o.sample(cell, round))
	return ctx.Err()
}

// arrive waits until that many events have come.
func (b *Bench) arrive(ctx context.Context, events *events, published int) error {
	const poll = time.Millisecond
	for end := time.Now().Add(arrival); events.unique.Load() < int64(published); {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d events came within %s", events.unique.Load(), published, arrival)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (b *Bench) steady(ctx context.Context, c channel, cell Cell, round int) error {
	duration := b.opts.WarmUp + b.opts.Steady
	most := int(duration.Seconds()*steadyRate) + steadyRate
	topic, events := newTopic(), newEvents(cell.Size, most)
	due, took := make([]time.Time, most), make([]atomic.Int64, most)
	subscription, unsubscribe := context.WithCancel(ctx)
	defer unsubscribe()
	err := c.subscribe(subscription, topic, func(data []byte) {
		now := time.Now()
		if number, first := events.arrive(data); first {
			took[number].Store(now.UnixNano())
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	calls, failed, first := openLoop(ctx, steadyRate, duration, func(ctx context.Context, _ int, at time.Time) error {
		data, number, ok := events.make()
		if !ok {
			return errNoMoreEvents
		}
		due[number] = at
		return c.publish(ctx, topic, data)
	})
	s := Sample{Cell: cell, Round: round, Errors: failed}
	if first != nil {
		s.Error = first.Error()
	}
	if err := b.arrive(ctx, events, calls-failed); err != nil {
		s.Error = err.Error()
		b.record(s)
		return ctx.Err()
	}
	var latencies []time.Duration
	warm := int(b.opts.WarmUp.Seconds() * steadyRate)
	for number := warm; number < calls; number++ {
		if at := took[number].Load(); at != 0 {
			latencies = append(latencies, time.Duration(at-due[number].UnixNano()))
		}
	}
	s.PerSecond = float64(len(latencies)) / b.opts.Steady.Seconds()
	s.P50, s.P99 = quantile(latencies, 0.50), quantile(latencies, 0.99)
	b.record(s)
	return ctx.Err()
}

// settled asks dapr-bolt until nothing of the topic is waiting or in hand: its acks have no answer of their own.
func (w *world) settled(ctx context.Context, topic string) error {
	const poll = time.Millisecond
	client := admin.NewClient(filepath.Join(w.bolt.DataDir, admin.SocketName))
	defer client.Close()
	for end := time.Now().Add(arrival); ; {
		answer, err := client.Topics(ctx, admin.Scope{})
		if err != nil {
			return err
		}
		var owed uint64
		for _, t := range answer.Topics {
			if t.Topic != topic {
				continue
			}
			for _, g := range t.Groups {
				owed += g.Waiting + g.InFlight + g.Retrying
			}
		}
		if owed == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d events of topic %s are not acknowledged after %s", owed, topic, arrival)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
