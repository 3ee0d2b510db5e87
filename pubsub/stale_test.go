package pubsub_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

// engineInRead stops in the middle of a read of retries, whose view of the file is as old as its beginning.
type engineInRead struct {
	pubsub.Engine
	// stop makes the next read that comes across a busy retry stop.
	stop             chan struct{}
	stopped, settled chan struct{}
}

func (e *engineInRead) ReadRetries(ctx context.Context, topic, group string, now time.Time, skip func(pubsub.RetryKey) bool, limit, maxBytes int) ([]pubsub.Retry, time.Time, error) {
	return e.Engine.ReadRetries(ctx, topic, group, now, func(k pubsub.RetryKey) bool {
		if !skip(k) {
			return false
		}
		select {
		case <-e.stop:
		default:
			return true
		}
		close(e.stopped)
		<-e.settled
		// The retry is settled; whether the group has taken note of it shows within moments, or not at all.
		for range 50 {
			if !skip(k) {
				return false
			}
			time.Sleep(time.Millisecond)
		}
		return true
	}, limit, maxBytes)
}

func (e *engineInRead) Settle(ctx context.Context, topic, group string, settlements []pubsub.Settlement) ([]int, error) {
	gone, err := e.Engine.Settle(ctx, topic, group, settlements)
	for _, s := range settlements {
		if s.Retry != nil && s.Outcome == pubsub.Acked {
			select {
			case <-e.settled:
			default:
				close(e.settled)
			}
		}
	}
	return gone, err
}

// An event that was acknowledged while the group was reading retries is not taken from what it read, and delivered again.
func TestAnAckDuringAReadOfRetriesHolds(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.broker.Close(t.Context()))
	inner, err := boltengine.New(t.Context(), b.db, "pubsub")
	require.NoError(t, err)
	engine := &engineInRead{Engine: inner, stop: make(chan struct{}, 1), stopped: make(chan struct{}), settled: make(chan struct{})}
	b.broker, err = pubsub.NewBroker(t.Context(), engine, pubsub.Options{Clock: b.clock, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)

	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", BackOff: pubsub.BackOff{time.Second}})
	b.publish("t", message("a"), message("b"))
	first, second := b.next(s), b.next(s)
	first.Nack("no")
	b.advance(1100*time.Millisecond, 2)
	first = b.next(s)
	require.Equal(t, "a", string(first.Event.Data))
	require.Equal(t, 2, first.Count)
	second.Nack("no")
	engine.stop <- struct{}{}
	b.advance(1100*time.Millisecond, 2)
	<-engine.stopped
	first.Ack()
	b.expect(s, "b")
	b.expectNothing(s, "t")
}

// engineInReadLog stops in each read of the log that it is told of.
type engineInReadLog struct {
	pubsub.Engine
	stop, stopped, goOn chan struct{}
}

func (e *engineInReadLog) ReadLog(ctx context.Context, topic, group string, after uint64, limit, maxBytes int) ([]pubsub.Event, uint64, error) {
	select {
	case <-e.stop:
		e.stopped <- struct{}{}
		<-e.goOn
	default:
	}
	return e.Engine.ReadLog(ctx, topic, group, after, limit, maxBytes)
}

// An event that is put back while the group is on its way to a later one with its partition key is not overtaken.
func TestAnEventThatIsPutBackIsNotOvertaken(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.broker.Close(t.Context()))
	inner, err := boltengine.New(t.Context(), b.db, "pubsub")
	require.NoError(t, err)
	engine := &engineInReadLog{Engine: inner, stop: make(chan struct{}, 1), stopped: make(chan struct{}), goOn: make(chan struct{})}
	b.broker, err = pubsub.NewBroker(t.Context(), engine, pubsub.Options{Clock: b.clock, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)

	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxAckPending: 1}
	leaves := b.subscribe(opts)
	b.publish("t", pubsub.Message{Data: []byte("1"), PartitionKey: "k"})
	b.next(leaves)
	stays := b.subscribe(opts)
	b.expectNothing(stays, "t") // and the group has read all there is
	engine.stop <- struct{}{}
	// An event that was held back is read from the engine, however well the group keeps up.
	b.publish("t", pubsub.Message{Data: []byte("2"), PartitionKey: "k", DeliverAt: b.clock.Now().Add(time.Second)})
	b.clock.Advance(time.Second)
	<-engine.stopped
	leaves.Close()
	close(engine.goOn)
	b.expect(stays, "1", "2")
}

// engineAtTheEnd stops in the second read of the log until the stream has ended, and meanwhile in the first settlement,
// which then gathers all that is settled afterwards.
type engineAtTheEnd struct {
	pubsub.Engine
	reads                atomic.Int32
	last                 uint64
	reading, closed, all chan struct{}
}

func (e *engineAtTheEnd) ReadLog(ctx context.Context, topic, group string, after uint64, limit, maxBytes int) ([]pubsub.Event, uint64, error) {
	switch n := e.reads.Add(1); {
	case n == 2:
		close(e.reading)
		<-e.closed
	case after == e.last && n > 2:
		close(e.all)
	}
	return e.Engine.ReadLog(ctx, topic, group, after, limit, maxBytes)
}

func (e *engineAtTheEnd) Settle(ctx context.Context, topic, group string, settlements []pubsub.Settlement) ([]int, error) {
	select {
	case <-e.all:
	case <-time.After(200 * time.Millisecond): // nobody reads to the end any more, which is right
	}
	return e.Engine.Settle(ctx, topic, group, settlements)
}

// Events whose time to live has ended are dead letters, also when their stream ends while they are being looked through.
func TestEventsThatExpireWhileTheStreamEndsAreDeadLetters(t *testing.T) {
	const events = 300 // of which each read brings a part
	b := newBench(t)
	for range events {
		b.publish("t", pubsub.Message{Data: []byte("x"), TTL: time.Minute})
	}
	b.clock.Advance(time.Minute)
	require.NoError(t, b.broker.Close(t.Context()))
	inner, err := boltengine.New(t.Context(), b.db, "pubsub")
	require.NoError(t, err)
	engine := &engineAtTheEnd{Engine: inner, last: events, reading: make(chan struct{}), closed: make(chan struct{}), all: make(chan struct{})}
	b.broker, err = pubsub.NewBroker(t.Context(), engine, pubsub.Options{Clock: b.clock, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)

	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", DeadLetterExpired: true}
	ends := b.subscribe(opts)
	<-engine.reading
	ends.Close()
	close(engine.closed)
	require.Eventually(t, func() bool { g := b.stats("t").Groups[0]; return g.Streams == 0 && g.Dead > 0 }, waitLong, time.Millisecond)

	b.reopen()
	b.subscribe(opts)
	require.Eventually(t, func() bool { g := b.stats("t").Groups[0]; return g.Waiting+g.Retrying == 0 }, waitLong, time.Millisecond)
	dead := b.deadLetters(pubsub.DeadLetterFilter{Limit: events + 1})
	require.Equal(t, events, len(dead)) // Len would print them all
	require.Equal(t, pubsub.ReasonExpired, dead[0].Reason)
}
