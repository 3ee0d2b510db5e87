package pubsub_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

// An hour is how long topics keep events here.
var keptForAnHour = pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxAge: time.Hour}}

func (b *bench) publishKept(topic string, messages ...pubsub.Message) {
	b.t.Helper()
	for _, err := range b.broker.Publish(context.Background(), topic, messages, keptForAnHour) {
		require.NoError(b.t, err)
	}
}

// dies waits for the group's only dead letter.
func (b *bench) dies() (d pubsub.DeadLetter) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		dead := b.deadLetters(pubsub.DeadLetterFilter{})
		if len(dead) == 1 {
			d = dead[0]
		}
		return len(dead) == 1
	}, waitLong, time.Millisecond)
	return d
}

// A retry that grows too old becomes a dead letter, whether somebody consumes or not, and holds nothing back then.
func TestRetriesDoNotOutliveMaxAge(t *testing.T) {
	for name, consumed := range map[string]bool{"of a group that consumes": true, "of a group that is missing": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: true, BackOff: pubsub.BackOff{2 * time.Hour}}
			s := b.subscribe(opts)
			b.publishKept("t", message("old"))
			b.next(s).Nack("no")
			require.Eventually(t, func() bool { return b.stats("t").Groups[0].Retrying == 1 }, waitLong, time.Millisecond)
			if !consumed {
				s.Close()
				b.advance(time.Hour-time.Nanosecond, 1)
				b.advance(0, 1) // the sweep has been
				require.Empty(t, b.deadLetters(pubsub.DeadLetterFilter{}))
				// A group that is still ending is left alone until the next sweep.
				require.Eventually(t, func() bool {
					b.clock.Advance(time.Minute)
					return len(b.deadLetters(pubsub.DeadLetterFilter{})) > 0
				}, waitLong, time.Millisecond)
			} else {
				b.advance(3*time.Hour, 2)
			}
			dead := b.dies()
			require.Equal(t, pubsub.ReasonMaxAge, dead.Reason)
			require.Equal(t, 1, dead.History.Deliveries)
			require.Equal(t, "no", dead.LastError())
			if !consumed {
				s = b.subscribe(opts)
			}
			b.publishKept("t", message("new"))
			b.expect(s, "new")

			// Who redrives it wants it delivered, whatever its age.
			_, err := b.broker.Redrive(t.Context(), []uint64{dead.ID})
			require.NoError(t, err)
			d := b.next(s)
			require.Equal(t, "old", string(d.Event.Data))
			d.Nack("not yet")
			b.advance(3*time.Hour, 2)
			b.expect(s, "old")
		})
	}
}

// A dead letter whose time to live has ended is not lost by being redriven, and does not die of it again.
func TestARedrivenEventOutlivesItsTimeToLive(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 1})
	b.publish("t", pubsub.Message{Data: []byte("short"), TTL: time.Minute})
	b.next(s).Nack("no")
	id := b.dies().ID
	b.clock.Advance(time.Hour)
	_, err := b.broker.Redrive(t.Context(), []uint64{id})
	require.NoError(t, err)
	b.expect(s, "short")
}

// An event that is in flight when it grows too old is a dead letter, and its failure then is no retry for later events
// to wait for.
func TestAFailureOfAnEventThatIsDeadHoldsNothingBack(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", Ordered: true, BackOff: pubsub.BackOff{time.Second}})
	b.publishKept("t", message("slow"))
	d := b.next(s)
	b.advance(time.Hour, 1)
	require.Equal(t, pubsub.ReasonMaxAge, b.dies().Reason)
	d.Nack("too late")
	b.publishKept("t", message("next"))
	b.expect(s, "next")
}

// engineInSweep stops in BuryAged while it holds the retries of group g of topic t.
type engineInSweep struct {
	pubsub.Engine
	locked, goOn chan struct{}
	swept        atomic.Bool
	early        atomic.Bool
}

func (e *engineInSweep) BuryAged(ctx context.Context, now time.Time, limit int, lock func(topic, group string) bool) ([]pubsub.AgedEvent, bool, error) {
	if !e.swept.Load() && lock("t", "g") && lock("t", "g") {
		close(e.locked)
		<-e.goOn
		e.swept.Store(true)
	}
	return e.Engine.BuryAged(ctx, now, limit, lock)
}

func (e *engineInSweep) Retrying(ctx context.Context, topic, group string) (int, map[string]int, error) {
	if group == "g" && !e.swept.Load() {
		e.early.Store(true)
	}
	return e.Engine.Retrying(ctx, topic, group)
}

func TestAGroupWaitsForASweepOfItsRetries(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.broker.Close(t.Context()))
	engine, err := boltengine.New(t.Context(), b.db, "pubsub")
	require.NoError(t, err)
	stopped := &engineInSweep{Engine: engine, locked: make(chan struct{}), goOn: make(chan struct{})}
	b.broker, err = pubsub.NewBroker(t.Context(), stopped, pubsub.Options{Clock: b.clock, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	b.advance(time.Minute, 1)
	<-stopped.locked

	held := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	other := b.subscribe(pubsub.SubscribeOptions{Group: "other", Topic: "t"})
	b.publish("t", message("1"))
	b.expect(other, "1")
	close(stopped.goOn)
	b.expect(held, "1")
	require.False(t, stopped.early.Load(), "the group has looked at its retries in the middle of a sweep of them")
}

func TestStatsTellTheOldestEventOfEachGroup(t *testing.T) {
	b := newBench(t)
	done := b.subscribe(pubsub.SubscribeOptions{Group: "done", Topic: "t"})
	retrying := b.subscribe(pubsub.SubscribeOptions{Group: "retrying", Topic: "t", BackOff: pubsub.BackOff{time.Hour}})
	waiting := b.subscribe(pubsub.SubscribeOptions{Group: "waiting", Topic: "t"})
	first := b.clock.Now()
	b.publish("t", message("1"))
	b.expect(done, "1")
	b.next(retrying).Nack("no")
	b.expect(waiting, "1")
	b.clock.Advance(time.Second)
	second := b.clock.Now()
	b.publish("t", message("2"))
	b.expect(done, "2")
	b.expect(retrying, "2")
	want := map[string]*time.Time{"done": nil, "retrying": &first, "waiting": &second}
	require.Eventually(t, func() bool {
		for _, g := range b.stats("t").Groups {
			is := want[g.Group]
			if (is == nil) != (g.OldestTime == nil) || is != nil && !is.Equal(*g.OldestTime) {
				return false
			}
		}
		return true
	}, waitLong, time.Millisecond)
}

func TestDelayedEventsCountTowardsMaxBytes(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	opts := pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxBytes: 3000}}
	big := strings.Repeat("x", 1000)
	later := pubsub.Message{Data: []byte(big), DeliverAt: b.clock.Now().Add(time.Minute)}
	errs := b.broker.Publish(t.Context(), "t", []pubsub.Message{later, later}, opts)
	require.Equal(t, []error{nil, nil}, errs)
	require.ErrorIs(t, b.broker.Publish(t.Context(), "t", []pubsub.Message{later}, opts)[0], pubsub.ErrTopicFull)
	b.advance(time.Minute, 1)
	b.expect(s, big, big)
	require.Eventually(t, func() bool { return b.stats("t").Bytes == 0 }, waitLong, time.Millisecond)
}

func TestBuriedEventsAreDeadAtOnce(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 10})
	b.publish("t", message("huge"), message("2"))
	d := b.next(s)
	d.Bury(pubsub.ReasonTooLarge, "over the limit")
	d.Bury(pubsub.ReasonTooLarge, "twice changes nothing")
	dead := b.dies()
	require.Equal(t, pubsub.ReasonTooLarge, dead.Reason)
	require.Equal(t, "over the limit", dead.LastError())
	require.Equal(t, "huge", string(dead.Event.Data))
	b.expect(s, "2")
	b.expectNothing(s, "t")
}
