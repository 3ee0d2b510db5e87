package pubsub_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// observations are what a Histogram took.
type observations struct {
	mu      sync.Mutex
	seconds []float64
}

func (o *observations) Observe(seconds float64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seconds = append(o.seconds, seconds)
}

func (o *observations) all() []float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]float64(nil), o.seconds...)
}

func TestWhatHappensToEventsIsCounted(t *testing.T) {
	b := newBench(t)
	wait, handling, totals := &observations{}, &observations{}, &pubsub.Totals{}
	b.opts.Totals = totals
	b.opts.Timings = func(group string) pubsub.Timings {
		require.Equal(t, "g", group)
		return pubsub.Timings{Wait: wait, Handling: handling}
	}
	b.reopen()
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 2, AckWait: time.Minute, BackOff: pubsub.BackOff{time.Second}, Ordered: true}
	s := b.subscribe(opts)
	want := pubsub.NewGroupCounts()
	counted := func(published, duplicates uint64) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			stats := b.stats("t")
			require.Equal(c, pubsub.TopicCounts{Published: published, Duplicates: duplicates}, stats.TopicCounts)
			require.Equal(c, want, stats.Groups[0].GroupCounts)
		}, waitLong, time.Millisecond)
	}

	b.publish("t", named("1", "one"))
	b.publish("t", named("1", "one"))
	d := b.next(s)
	b.clock.Advance(3 * time.Second)
	d.Ack()
	want.Delivered, want.Acknowledged = 1, 1
	counted(1, 1)
	require.Equal(t, []float64{0}, wait.all())
	require.Equal(t, []float64{3}, handling.all())

	// It fails, is delivered again, and is a dead letter when its time runs out; then it is redriven.
	b.publish("t", message("two"))
	b.next(s).Nack("no")
	b.advance(2*time.Second, 2)
	b.next(s)
	b.advance(time.Minute, 2)
	want.Delivered, want.Redelivered, want.Failed, want.DeadLettered[pubsub.ReasonMaxDeliver] = 3, 1, 2, 1
	counted(2, 1)
	_, err := b.broker.Redrive(t.Context(), []uint64{b.deadLetters(pubsub.DeadLetterFilter{})[0].ID})
	require.NoError(t, err)
	b.expect(s, "two")
	want.Delivered, want.Acknowledged, want.Redriven = 4, 2, 1
	counted(2, 1)
	require.Len(t, wait.all(), 2, "those of first deliveries alone")

	// A stream that ends leaves its event uncounted, and another gets it.
	b.publish("t", message("three"))
	b.next(s)
	next := b.subscribe(opts)
	s.Close()
	s = next
	b.next(s).Bury(pubsub.ReasonTooLarge, "too large")
	want.Delivered, want.Redelivered, want.Failed, want.DeadLettered[pubsub.ReasonTooLarge] = 6, 2, 3, 1
	counted(3, 1)

	// Nor is one that was interrupted delivered for the first time when it comes again.
	b.publish("t", message("interrupted"))
	b.next(s)
	s.Interrupt()
	s = b.subscribe(opts)
	b.expect(s, "interrupted")
	want.Delivered, want.Redelivered, want.Acknowledged = 8, 3, 3
	counted(4, 1)
	require.Len(t, wait.all(), 4, "those of first deliveries alone")

	// Nobody is there when one expires, and one grows too old.
	s.Close()
	expiring := message("four")
	expiring.TTL = time.Second
	b.publish("t", expiring)
	require.NoError(t, b.broker.Publish(t.Context(), "t", []pubsub.Message{message("five")}, pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxAge: time.Hour}})[0])
	b.advance(time.Minute, 1)
	s = b.subscribe(opts)
	b.expect(s, "five")
	want.Delivered, want.Acknowledged, want.Expired = 9, 4, 1
	counted(6, 1)
	s.Close()
	require.NoError(t, b.broker.Publish(t.Context(), "t", []pubsub.Message{message("six")}, pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxAge: time.Hour}})[0])
	b.advance(2*time.Hour, 1)
	want.DeadLettered[pubsub.ReasonMaxAge] = 1
	counted(7, 1)

	require.EqualValues(t, 7, totals.Published.Load())
	require.EqualValues(t, 9, totals.Delivered.Load())
	require.EqualValues(t, 4, totals.Acknowledged.Load())
	require.EqualValues(t, 3, totals.Failed.Load())

	b.reopen()
	want = pubsub.NewGroupCounts()
	counted(0, 0)
}

// An event that is owed counts once, wherever it is.
func TestARetryInFlightWaitsForNothing(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: true})
	b.publish("t", message("a"), message("b"))
	b.next(s).Nack("no")
	require.Equal(t, 2, b.next(s).Count)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		g := b.stats("t").Groups[0]
		require.Equal(c, []uint64{1, 1, 0}, []uint64{g.Waiting, g.InFlight, g.Retrying})
	}, waitLong, time.Millisecond)
}

// failedBurial is an engine that cannot keep what it has buried.
type failedBurial struct {
	pubsub.Engine
	failed chan struct{}
}

func (e *failedBurial) BuryAged(context.Context, time.Time, int, func(topic, group string) bool) ([]pubsub.AgedEvent, bool, error) {
	defer close(e.failed)
	return []pubsub.AgedEvent{{Topic: "t", Group: "g"}}, false, errFault
}

func TestABurialThatFailsIsNotCounted(t *testing.T) {
	b := newBench(t)
	failed := make(chan struct{})
	b.wrap = func(e pubsub.Engine) pubsub.Engine { return &failedBurial{e, failed} }
	b.reopen()
	b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.advance(10*time.Second, 1)
	<-failed
	require.NoError(t, b.broker.Close(t.Context()))
	require.Zero(t, b.stats("t").Groups[0].DeadLettered[pubsub.ReasonMaxAge])
}

// engineInRemoveGroup does something right before a group is removed.
type engineInRemoveGroup struct {
	pubsub.Engine
	before func()
}

func (e *engineInRemoveGroup) RemoveGroup(ctx context.Context, topic, group string) error {
	e.before()
	return e.Engine.RemoveGroup(ctx, topic, group)
}

// What a group does counts, also if it begins while one of its name is removed.
func TestAGroupThatBeginsAnewIsCounted(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t"}
	var s pubsub.Subscription
	b.wrap = func(e pubsub.Engine) pubsub.Engine {
		return &engineInRemoveGroup{e, func() { s = b.subscribe(opts) }}
	}
	b.reopen()
	b.subscribe(opts).Close()
	require.NoError(t, b.broker.RemoveGroup(t.Context(), "t", "g"))
	b.publish("t", message("x"))
	b.expect(s, "x")
	require.EqualValues(t, 1, b.stats("t").Groups[0].Acknowledged)
}
