package pubsub_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

func TestNackedEventsComeBackAfterTheirWaitAndThenDie(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 3, BackOff: pubsub.BackOff{time.Second, 5 * time.Second}}
	s := b.subscribe(opts)
	b.publish("t", named("id-1", "poison"))

	b.next(s).Nack("first")
	b.expectNothing(s, "t")
	// Jitter adds at most a tenth to a wait.
	b.advance(time.Second+100*time.Millisecond, 2)
	d := b.next(s)
	require.Equal(t, 2, d.Count)
	d.Nack("second")
	b.expectNothing(s, "t")
	b.advance(5500*time.Millisecond, 2)
	d = b.next(s)
	require.Equal(t, 3, d.Count)
	diedAt := b.clock.Now()
	d.Nack("third")

	var dead []pubsub.DeadLetter
	require.Eventually(t, func() bool { dead = b.deadLetters(pubsub.DeadLetterFilter{}); return len(dead) == 1 }, waitLong, time.Millisecond)
	require.Equal(t, "poison", string(dead[0].Event.Data))
	require.Equal(t, "id-1", dead[0].Event.ID)
	require.Equal(t, "g", dead[0].Group)
	require.Equal(t, pubsub.ReasonMaxDeliver, dead[0].Reason)
	require.Equal(t, 3, dead[0].History.Deliveries)
	require.Equal(t, "third", dead[0].LastError())
	require.True(t, dead[0].Time.Equal(diedAt))
	require.Len(t, dead[0].History.Attempts, 3)
	require.Equal(t, "first", dead[0].History.Attempts[0].Error)
	b.expectNothing(s, "t")
}

func TestTheCountOfDeliveriesSurvivesARestart(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", BackOff: pubsub.BackOff{time.Second}}
	s := b.subscribe(opts)
	b.publish("t", message("x"))
	b.next(s).Nack("no")
	b.reopen()
	s = b.subscribe(opts)
	b.advance(2*time.Second, 2)
	d := b.next(s)
	require.Equal(t, 2, d.Count)
	d.Ack()
}

func TestRedrivenEventsGoToTheirGroupAtTheEnd(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 1, MaxAckPending: 1})
	other := b.subscribe(pubsub.SubscribeOptions{Group: "other", Topic: "t"})
	b.publish("t", message("dead"))
	b.expect(other, "dead")
	b.next(s).Nack("no")
	require.Eventually(t, func() bool { return len(b.deadLetters(pubsub.DeadLetterFilter{})) == 1 }, waitLong, time.Millisecond)

	b.publish("t", message("2"), message("3"))
	held := b.next(s)
	moved, err := b.broker.Redrive(t.Context(), []uint64{1, 99})
	require.NoError(t, err)
	require.Len(t, moved, 1)
	require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
	held.Ack()
	b.expect(s, "3")
	d := b.next(s)
	require.Equal(t, "dead", string(d.Event.Data))
	require.Equal(t, 1, d.Count, "the count starts anew")
	d.Nack("again")
	require.Eventually(t, func() bool { return len(b.deadLetters(pubsub.DeadLetterFilter{})) == 1 }, waitLong, time.Millisecond)
	require.Equal(t, 1, b.deadLetters(pubsub.DeadLetterFilter{})[0].History.Redriven)
	b.expect(other, "2", "3")
	b.expectNothing(other, "t")
	_ = b.next(s)

	n, err := b.broker.Purge(t.Context(), []uint64{2, 99})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
}

func TestAckWaitCountsFromBeingTheOldest(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: time.Minute, BackOff: pubsub.BackOff{time.Hour}})
	b.publish("t", message("1"), message("2"))
	one, two := b.next(s), b.next(s)
	b.advance(50*time.Second, 2)
	one.Ack()
	// 100 s after it was handed over, the second is in flight for 50 s of its own: its clock has been set anew.
	b.advance(50*time.Second, 2)
	b.advance(0, 2)
	two.Ack()
	b.expectNothing(s, "t")
	require.Zero(t, b.stats("t").Groups[0].Retrying, "no delivery has failed")
}

func TestAckWaitRunsOut(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: time.Minute, BackOff: pubsub.BackOff{time.Hour}})
	b.publish("t", message("1"))
	d := b.next(s)
	b.advance(time.Minute, 2)
	select {
	case <-d.Context().Done():
	case <-time.After(waitLong):
		t.Fatal("ackWait ran out and the delivery goes on")
	}
	d.Nack("too late")
	b.advance(2*time.Hour, 2)
	d = b.next(s)
	require.Equal(t, 2, d.Count)
	d.Ack()
}

func TestOrderedHoldsTheGroupBehindARetry(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: true, BackOff: pubsub.BackOff{time.Second}})
	b.publish("t", message("1"), message("2"))
	b.next(s).Nack("no")
	b.advance(1100*time.Millisecond, 2)
	b.expect(s, "1", "2")
}

func TestAPartitionKeyHoldsOnlyItsOwnEvents(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", BackOff: pubsub.BackOff{time.Second}}
	s := b.subscribe(opts)
	b.publish("t", keyed("a", "a1"), keyed("b", "b1"), keyed("a", "a2"), keyed("b", "b2"), message("free"))
	a1, b1, free := b.next(s), b.next(s), b.next(s)
	require.Equal(t, []string{"a1", "b1", "free"}, []string{string(a1.Event.Data), string(b1.Event.Data), string(free.Event.Data)},
		"one event of each key is in flight")
	a1.Nack("no")
	b1.Ack()
	free.Ack()
	b.expect(s, "b2")
	b.reopen()
	s = b.subscribe(opts)
	b.publish("t", keyed("a", "a3"))
	b.expectNothing(s, "t")
	b.advance(1100*time.Millisecond, 2)
	b.expect(s, "a1", "a2", "a3")
}

// A file from elsewhere may hold two retries of a key: an import takes what it is given.
func TestRetriesOfAKeyGoOutOneAfterTheOther(t *testing.T) {
	b := newBench(t)
	b.publish("t", keyed("a", "a1"), keyed("a", "a2"))
	engine, err := boltengine.New(t.Context(), b.db, "pubsub")
	require.NoError(t, err)
	_, err = engine.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	_, err = engine.Settle(t.Context(), "t", "g", []pubsub.Settlement{
		{Outcome: pubsub.Retried, Sequence: 1, Due: b.clock.Now()}, {Outcome: pubsub.Retried, Sequence: 2, Due: b.clock.Now()},
	})
	require.NoError(t, err)
	b.reopen()
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	first := b.next(s)
	require.Equal(t, "a1", string(first.Event.Data))
	b.expectNothing(s, "t")
	first.Ack()
	b.expect(s, "a2")
}

// deafEngine fails to read retries while its disk is away.
type deafEngine struct {
	pubsub.Engine
	away atomic.Bool
	// failed hears of each time.
	failed chan struct{}
}

func (e *deafEngine) ReadRetries(ctx context.Context, topic, group string, now time.Time, busy func(pubsub.RetryKey) bool, limit, maxBytes int) ([]pubsub.Retry, time.Time, error) {
	if e.away.Load() {
		select {
		case e.failed <- struct{}{}:
		case <-ctx.Done():
		}
		return nil, time.Time{}, errors.New("the disk is away")
	}
	return e.Engine.ReadRetries(ctx, topic, group, now, busy, limit, maxBytes)
}

// Nobody publishes or acknowledges anything meanwhile that would have the group look again.
func TestARetryComesThoughItCouldNotBeReadWhenItWasDue(t *testing.T) {
	b := newBench(t)
	engine := &deafEngine{failed: make(chan struct{})}
	b.wrap = func(e pubsub.Engine) pubsub.Engine { engine.Engine = e; return engine }
	b.reopen()
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", BackOff: pubsub.BackOff{time.Second}})
	b.publish("t", message("x"))
	b.next(s).Nack("no")
	engine.away.Store(true)
	b.advance(1100*time.Millisecond, 2)
	<-engine.failed
	engine.away.Store(false)
	// The engine is asked again a second after it failed.
	b.advance(time.Second, 2)
	b.expect(s, "x")
}

// A retry waits for its backOff, whatever the clock is set to meanwhile: also the first event of an ordered group, for which
// all others would wait until the clock is again where it was.
func TestAClockSetBackHoldsNoRetryUp(t *testing.T) {
	for name, restart := range map[string]bool{"between two runs": true, "while it runs": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: true, BackOff: pubsub.BackOff{time.Second, time.Minute}}
			s := b.subscribe(opts)
			b.publish("t", message("1"), message("2"))
			b.next(s).Nack("no")
			if restart {
				b.close()
			}
			b.clock.Advance(-5 * time.Hour)
			if restart {
				b.open()
				s = b.subscribe(opts)
			}
			b.publish("t", message("3"))
			for _, want := range []string{"1", "2", "3"} {
				d := b.next(s)
				require.Equal(t, want, string(d.Event.Data))
				d.Ack()
			}
		})
	}
}

// A clock that was not set back by more than the longest wait is not told from one that is right: nothing comes early.
func TestARetryWaitsUpToTheLongestBackOff(t *testing.T) {
	waits := pubsub.BackOff{time.Second, time.Minute}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.True(t, waits.Holds(now.Add(time.Second), now))
	require.True(t, waits.Holds(now.Add(66*time.Second), now), "a minute and its jitter")
	require.False(t, waits.Holds(now.Add(67*time.Second), now))
	require.False(t, waits.Holds(now, now))
	require.False(t, pubsub.BackOff(nil).Holds(now.Add(time.Second), now))
}
