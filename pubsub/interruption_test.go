package pubsub_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// interrupted subscribes, takes the event that must come first, and ends the stream over it.
func (b *bench) interrupted(opts pubsub.SubscribeOptions, data string, count int) {
	b.t.Helper()
	s := b.subscribe(opts)
	d := b.next(s)
	require.Equal(b.t, data, string(d.Event.Data))
	require.Equal(b.t, count, d.Count, "an interruption is no failed delivery")
	s.Interrupt()
	<-d.Context().Done()
	d.Nack("too late: changes nothing")
	_, err := s.Next(context.Background())
	require.ErrorIs(b.t, err, pubsub.ErrClosed)
}

func TestAnEventOverWhichStreamsEndBecomesADeadLetter(t *testing.T) {
	for _, c := range []struct{ maxDeliver, interruptions int }{{1, 2}, {2, 2}, {3, 3}} {
		b := newBench(t)
		opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: c.maxDeliver}
		b.publish("t", message("poison"), message("2"))
		for range c.interruptions {
			require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
			b.interrupted(opts, "poison", 1)
			// The count lasts while nobody consumes, and over a restart, which is none itself.
			b.reopen()
		}
		dead := b.dies()
		require.Equal(t, pubsub.ReasonInterrupted, dead.Reason)
		require.Equal(t, "poison", string(dead.Event.Data))
		require.Zero(t, dead.History.Deliveries)
		require.Len(t, dead.History.Attempts, c.interruptions)
		require.Equal(t, "the stream ended while it was this event's turn", dead.LastError())
		s := b.subscribe(opts)
		b.expect(s, "2")
		s.Close()

		_, err := b.broker.Redrive(t.Context(), []uint64{dead.ID})
		require.NoError(t, err)
		b.interrupted(opts, "poison", 1)
		require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}), "redriven, it begins a new count")
	}
}

func TestWithoutMaxDeliverInterruptionsNeverKill(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t"}
	b.publish("t", message("1"))
	for range 40 {
		b.interrupted(opts, "1", 1)
	}
	b.expect(b.subscribe(opts), "1")
	require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
}

func TestAFailedDeliveryEndsARowOfInterruptions(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 3}
	b.publish("t", message("1"))
	for count := 1; count <= 2; count++ {
		b.interrupted(opts, "1", count)
		b.interrupted(opts, "1", count)
		s := b.subscribe(opts)
		b.next(s).Nack("no")
		s.Close()
	}
	b.expect(b.subscribe(opts), "1")
	require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
}

func TestOnlyTheEventThatWasBeingHandledIsInterrupted(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 3, BackOff: pubsub.BackOff{time.Hour}}
	b.publish("t", message("1"), message("2"), message("3"))
	for range 5 {
		s := b.subscribe(opts)
		require.Eventually(t, func() bool { return s.InFlight() == 3 }, waitLong, time.Millisecond)
		s.Interrupt() // nobody has taken an event
	}
	b.interrupted(opts, "1", 1)
	s := b.subscribe(opts)
	b.next(s)
	b.next(s)
	s.Interrupt()
	s = b.subscribe(opts)
	d := b.next(s)
	require.Equal(t, "2", string(d.Event.Data), "the others go first meanwhile")
	require.Equal(t, 1, d.Count)
	d.Ack()
	b.expect(s, "3")
	b.expectNothing(s, "t")
	require.EqualValues(t, 1, b.stats("t").Groups[0].Retrying)
	b.advance(time.Hour+6*time.Minute, 2)
	b.expect(s, "1")
}

// Most streams end because a sidecar stops, over an event that its app has not even seen.
func TestTheFirstInterruptionCostsNoTimeAndNoPlace(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", BackOff: pubsub.BackOff{time.Hour}}
	b.publish("t", message("1"), message("2"), message("3"))
	b.interrupted(opts, "1", 1)
	b.reopen()
	b.expect(b.subscribe(opts), "1", "2", "3")
}

func TestOrderHoldsBehindAnInterruption(t *testing.T) {
	for name, ordered := range map[string]bool{"ordered": true, "partition key": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: ordered, BackOff: pubsub.BackOff{time.Minute}}
			for _, data := range []string{"1", "2", "3"} {
				b.publish("t", pubsub.Message{Data: []byte(data), PartitionKey: "k"})
			}
			b.interrupted(opts, "1", 1)
			b.interrupted(opts, "1", 1)
			b.reopen()
			s := b.subscribe(opts)
			b.advance(time.Minute+6*time.Second, 2)
			b.expect(s, "1", "2", "3")
		})
	}
}
