package pubsub_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// late subscribes, takes the next event, and lets its ackWait run out.
func (b *bench) late(opts pubsub.SubscribeOptions) (pubsub.Subscription, *pubsub.Delivery) {
	b.t.Helper()
	opts.Group, opts.Topic, opts.AckWait = "g", "t", time.Minute
	s := b.subscribe(opts)
	d := b.next(s)
	b.runOut(d)
	return s, d
}

// runOut lets the ackWait of a delivery run out.
func (b *bench) runOut(d *pubsub.Delivery) {
	b.t.Helper()
	b.advance(time.Minute, 2)
	<-d.Context().Done()
}

// retryWaits waits until the group's only retry is written down.
func (b *bench) retryWaits() {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return b.stats("t").Groups[0].Retrying == 1 }, waitLong, time.Millisecond)
}

func TestAnAckAfterAckWaitEndsAnEventThatWaits(t *testing.T) {
	b := newBench(t)
	b.publish("t", message("1"), message("2"))
	s, d := b.late(pubsub.SubscribeOptions{Ordered: true, BackOff: pubsub.BackOff{time.Hour}})
	b.retryWaits()
	require.True(t, s.Ack(d.Number))
	require.False(t, s.Ack(d.Number))
	b.expect(s, "2")
	require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
	require.Zero(t, b.stats("t").Groups[0].Retrying)
}

func TestAnAckAfterAckWaitEndsAnEventThatIsOutAgain(t *testing.T) {
	b := newBench(t)
	b.publish("t", message("1"))
	s, d := b.late(pubsub.SubscribeOptions{MaxDeliver: 2})
	again := b.next(s)
	require.Equal(t, 2, again.Count)
	require.True(t, s.Ack(d.Number))
	require.NoError(t, again.Context().Err(), "it goes on: the app may be in the middle of it")
	again.Nack("no")
	b.publish("t", message("2"))
	b.expect(s, "2")
	require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
	require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
}

func TestAnAckAfterAckWaitChangesNothingOfWhatHasEnded(t *testing.T) {
	for name, end := range map[string]func(*pubsub.Delivery){
		"handled": func(d *pubsub.Delivery) { d.Ack() },
		"dead":    func(d *pubsub.Delivery) { d.Nack("no") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.publish("t", message("1"))
			s, d := b.late(pubsub.SubscribeOptions{MaxDeliver: 2})
			again := b.next(s)
			end(again)
			require.False(t, s.Ack(d.Number))
			require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
			for _, letter := range b.deadLetters(pubsub.DeadLetterFilter{}) {
				// Redriven, it begins anew.
				_, err := b.broker.Redrive(t.Context(), []uint64{letter.ID})
				require.NoError(t, err)
				b.next(s).Nack("no")
				require.Equal(t, "1", string(b.next(s).Event.Data))
			}
		})
	}
}

// engineBeforeSettle writes a retry down only after it was to be moved.
type engineBeforeSettle struct {
	pubsub.Engine
	moved chan struct{}
	once  sync.Once
}

func (e *engineBeforeSettle) Settle(ctx context.Context, topic, group string, settlements []pubsub.Settlement) ([]int, error) {
	if settlements[0].Outcome == pubsub.Retried {
		<-e.moved
	}
	return e.Engine.Settle(ctx, topic, group, settlements)
}

func (e *engineBeforeSettle) MoveRetry(ctx context.Context, topic, group string, key pubsub.RetryKey, due time.Time) error {
	err := e.Engine.MoveRetry(ctx, topic, group, key, due)
	e.once.Do(func() { close(e.moved) })
	return err
}

func TestAnAckAfterAckWaitEndsAnEventWhoseWaitIsNotWrittenDownYet(t *testing.T) {
	b := newBench(t)
	b.wrap = func(e pubsub.Engine) pubsub.Engine {
		return &engineBeforeSettle{Engine: e, moved: make(chan struct{})}
	}
	b.reopen()
	b.publish("t", message("1"), message("2"))
	s, d := b.late(pubsub.SubscribeOptions{Ordered: true, BackOff: pubsub.BackOff{time.Hour}})
	require.True(t, s.Ack(d.Number))
	b.expect(s, "2")
}

func TestAnAckAfterAckWaitEndsAnEventThatHasFailedSince(t *testing.T) {
	b := newBench(t)
	b.publish("t", message("1"), message("2"))
	s, d := b.late(pubsub.SubscribeOptions{Ordered: true, BackOff: pubsub.BackOff{time.Second, time.Hour}})
	b.advance(2*time.Second, 2)
	b.next(s).Nack("no")
	b.retryWaits()
	require.True(t, s.Ack(d.Number))
	b.expect(s, "2")
}

// What a person has given up and sent again is another event: whatever was said of it before, it is delivered until somebody
// handles it.
func TestAnAckAfterAckWaitIsNotForAnEventThatWasSkippedAndRedriven(t *testing.T) {
	again := func(t *testing.T, acked bool) (*bench, pubsub.Subscription, *pubsub.Delivery) {
		b := newBench(t)
		b.publish("t", message("1"))
		s, d := b.late(pubsub.SubscribeOptions{BackOff: pubsub.BackOff{time.Hour}})
		s.Pause()
		b.retryWaits()
		require.True(t, !acked || s.Ack(d.Number))
		require.NoError(t, b.broker.SkipRetry(t.Context(), "t", "g", 1))
		_, err := b.broker.Redrive(t.Context(), []uint64{b.deadLetters(pubsub.DeadLetterFilter{})[0].ID})
		require.NoError(t, err)
		s.Resume()
		return b, s, d
	}
	t.Run("acknowledged before it", func(t *testing.T) {
		b, s, _ := again(t, true)
		b.next(s).Nack("no")
		b.retryWaits()
		b.advance(2*time.Hour, 2)
		b.expect(s, "1")
	})
	t.Run("acknowledged after a failure", func(t *testing.T) {
		b, s, d := again(t, false)
		b.next(s).Nack("no")
		require.False(t, s.Ack(d.Number))
	})
	t.Run("acknowledged after another ackWait", func(t *testing.T) {
		b, s, d := again(t, false)
		b.runOut(b.next(s))
		require.False(t, s.Ack(d.Number))
	})
}

func TestAnAckAfterAckWaitIsNotForAnEventThatHadGrownTooOldAndWasRedriven(t *testing.T) {
	b := newBench(t)
	for _, err := range b.broker.Publish(t.Context(), "t", []pubsub.Message{message("1")}, pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxAge: 30 * time.Second}}) {
		require.NoError(t, err)
	}
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: true, AckWait: time.Minute, BackOff: pubsub.BackOff{time.Hour}})
	d := b.next(s)
	b.advance(40*time.Second, 2)
	require.Eventually(t, func() bool { return len(b.deadLetters(pubsub.DeadLetterFilter{})) == 1 }, waitLong, time.Millisecond)
	b.advance(20*time.Second, 2)
	<-d.Context().Done()
	_, err := b.broker.Redrive(t.Context(), []uint64{b.deadLetters(pubsub.DeadLetterFilter{})[0].ID})
	require.NoError(t, err)
	b.next(s).Nack("no")
	require.False(t, s.Ack(d.Number))
}

func TestAnAckAfterAckWaitIsNotForAnEventThatNextHasNotReturned(t *testing.T) {
	b := newBench(t)
	b.publish("t", message("1"))
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: time.Minute})
	require.Eventually(t, func() bool { return s.InFlight() == 1 }, waitLong, time.Millisecond)
	b.advance(time.Minute, 2)
	require.Eventually(t, func() bool { return b.stats("t").Groups[0].Failed == 1 }, waitLong, time.Millisecond)
	require.False(t, s.Ack(1))
	b.expect(s, "1")
}
