package pubsub_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func keyed(key, data string) pubsub.Message {
	return pubsub.Message{Data: []byte(data), PartitionKey: key}
}

// many are so many events with data from the numbers first, first+1, …
func many(key string, first, n int) (messages []pubsub.Message) {
	for i := range n {
		messages = append(messages, keyed(key, fmt.Sprint(key, first+i)))
	}
	return messages
}

// With one slot, no topic of a wildcard subscription gets all of it.
func TestTheTopicsOfAWildcardGetItsSlotsInTurn(t *testing.T) {
	const topics, events = 10, 100
	for _, slots := range []int{1, 7} {
		b := newBench(t)
		s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t.*", MaxAckPending: slots})
		for topic := range topics {
			b.publish(fmt.Sprint("t.", topic), message("first"))
			b.expect(s, "first")
		}
		s.Pause()
		for topic := range topics {
			b.publish(fmt.Sprint("t.", topic), many("", 0, events)...)
		}
		s.Resume()
		got := map[string]int{}
		for range topics * events {
			d := b.next(s)
			require.Equal(t, fmt.Sprint(got[d.Event.Topic]), string(d.Event.Data), "order of %s", d.Event.Topic)
			got[d.Event.Topic]++
			d.Ack()
			most, least := 0, events
			for topic := range topics {
				n := got[fmt.Sprint("t.", topic)]
				most, least = max(most, n), min(least, n)
			}
			require.LessOrEqual(t, most-least, 1+slots, "%d slots: %v", slots, got)
		}
	}
}

// A redriven event whose key is always busy has its turn behind what was there when it was redriven.
func TestARedrivenEventOfABusyKeyComes(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 1})
	b.publish("t", keyed("busy", "dead"))
	b.next(s).Nack("no")
	id := b.dies().ID
	b.publish("t", many("busy", 0, 3)...)
	d := b.next(s)
	_, err := b.broker.Redrive(t.Context(), []uint64{id})
	require.NoError(t, err)
	for n := 3; string(d.Event.Data) != "dead"; n += 2 {
		require.Less(t, n, 30, "it does not come")
		// There are always more of the key than are taken, and the group has seen them.
		b.publish("t", many("busy", n, 2)...)
		b.expectNothing(s, "t")
		d.Ack()
		d = b.next(s)
	}
	d.Ack()
}

// A redriven event that waits for its key does not hold up those behind it.
func TestARedrivenEventOfABusyKeyHoldsNoOtherUp(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 1})
	const blocked = 200 // more than are read at once
	b.publish("t", append(many("busy", 0, blocked), keyed("free", "free"))...)
	for range blocked + 1 {
		b.next(s).Nack("no")
	}
	require.Eventually(t, func() bool { return len(b.deadLetters(pubsub.DeadLetterFilter{Limit: 1000})) == blocked+1 }, waitLong, time.Millisecond)
	b.publish("t", keyed("busy", "stuck"))
	stuck := b.next(s)
	var ids []uint64
	for _, d := range b.deadLetters(pubsub.DeadLetterFilter{Limit: 1000}) {
		ids = append(ids, d.ID)
	}
	_, err := b.broker.Redrive(t.Context(), ids)
	require.NoError(t, err)
	b.expect(s, "free")
	stuck.Ack()
	for i := range blocked {
		b.expect(s, fmt.Sprint("busy", i))
	}
}

// However many events of a key wait for one that fails, other keys go on, and in the end all come in order.
func TestAFailingKeyHoldsBackThatKeyAlone(t *testing.T) {
	const blocked = 3000
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", BackOff: pubsub.BackOff{time.Minute}}
	s := b.subscribe(opts)
	b.publish("t", many("bad", 0, 1)...)
	b.next(s).Nack("no")
	b.publish("t", many("bad", 1, blocked/2)...)
	b.publish("t", many("good", 0, 1)...)
	b.publish("t", many("bad", 1+blocked/2, blocked/2)...)
	b.publish("t", many("fine", 0, 1)...)
	b.expect(s, "good0", "fine0")
	b.advance(2*time.Minute, 2)
	for i := range blocked + 1 {
		b.expect(s, fmt.Sprint("bad", i))
	}
	b.expectNothing(s, "t")
}

// A group that is removed while its app starts is removed before or after, and the app gets what comes then.
func TestAGroupThatIsRemovedWhileItsAppStartsGetsEvents(t *testing.T) {
	b := newBench(t)
	for i := range 300 {
		topic := "t"
		subscribed := topic
		if i%2 == 1 {
			subscribed = "*"
		}
		b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: subscribed}).Close()
		removed := make(chan error)
		go func() { removed <- b.broker.RemoveGroup(context.Background(), subscribed, "g") }()
		s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: subscribed, DeliverPolicy: pubsub.DeliverNew})
		if err := <-removed; err != nil {
			require.ErrorContains(t, err, "stop its app first")
		}
		if i%2 == 1 {
			topic = fmt.Sprint("new", i) // owed by what stands on disk, when nobody is there
			s.Close()
			b.publish(topic, message("1"))
			s = b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: topic})
		} else {
			// The group begins with what comes when it is open.
			require.Eventually(t, func() bool { return len(b.stats(topic).Groups) == 1 }, waitLong, time.Millisecond)
			b.publish(topic, message("1"))
		}
		b.expect(s, "1")
		s.Close()
	}
}

// An instance that hangs keeps what waits behind its oldest event for one ackWait, not for one after the other.
func TestWhatWaitsBehindAHungInstanceGoesToOthers(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: time.Minute, BackOff: pubsub.BackOff{time.Hour}, MaxAckPending: 3}
	hung := b.subscribe(opts)
	b.publish("t", many("", 0, 3)...)
	oldest := b.next(hung)
	sent := b.next(hung)
	require.Eventually(t, func() bool { return hung.InFlight() == 3 }, waitLong, time.Millisecond)
	healthy := b.subscribe(opts)
	b.advance(time.Minute, 2)
	b.expect(healthy, "1", "2")
	require.Zero(t, hung.InFlight())
	sent.Ack() // too late; but it is an answer, after which it shares in what comes
	oldest.Ack()

	b.publish("t", many("", 3, 6)...)
	for _, s := range []pubsub.Subscription{hung, healthy} {
		require.Eventually(t, func() bool { return s.InFlight() == 3 }, waitLong, time.Millisecond)
	}
}

// Until it answers, it has one event at a time.
func TestAHungInstanceIsTriedWithOneEvent(t *testing.T) {
	b := newBench(t)
	opts := pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: time.Minute, BackOff: pubsub.BackOff{time.Hour}, MaxAckPending: 3}
	hung := b.subscribe(opts)
	b.publish("t", many("", 0, 3)...)
	b.next(hung)
	require.Eventually(t, func() bool { return hung.InFlight() == 3 }, waitLong, time.Millisecond)
	opts.AckWait, opts.MaxAckPending = 0, 1
	busy := b.subscribe(opts)
	b.publish("t", many("", 3, 2)...)
	three := b.next(busy)
	b.advance(time.Minute, 2)
	require.Eventually(t, func() bool { return hung.InFlight() == 1 }, waitLong, time.Millisecond)
	three.Ack()
	b.expect(busy, "2", "4")
	require.Equal(t, 1, hung.InFlight())
	d := b.next(hung)
	require.Equal(t, "1", string(d.Event.Data))
}

// An instance that is alone keeps what it has: who else should handle it.
func TestAnInstanceThatIsAloneKeepsWhatItHas(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: time.Minute, BackOff: pubsub.BackOff{time.Hour}})
	b.publish("t", many("", 0, 3)...)
	b.next(s)
	second := b.next(s)
	b.advance(time.Minute, 2)
	require.Eventually(t, func() bool { return s.InFlight() == 2 }, waitLong, time.Millisecond)
	require.NoError(t, second.Context().Err())
	second.Ack()
	b.expect(s, "2")
}

// engineThatCounts counts the redriven events that it reads.
type engineThatCounts struct {
	pubsub.Engine
	read atomic.Int64
}

func (e *engineThatCounts) ReadRedriven(ctx context.Context, topic, group string, skip func(pubsub.RetryKey) bool, limit, maxBytes int) ([]pubsub.Retry, error) {
	redriven, err := e.Engine.ReadRedriven(ctx, topic, group, skip, limit, maxBytes)
	e.read.Add(int64(len(redriven)))
	return redriven, err
}

// Events of one key that are redriven together come in their order, and none is read again for each that goes before it.
func TestRedrivenEventsOfAKeyAreNotReadOverAndOver(t *testing.T) {
	const events = 300
	b := newBench(t)
	var engine *engineThatCounts
	b.wrap = func(e pubsub.Engine) pubsub.Engine {
		engine = &engineThatCounts{Engine: e}
		return engine
	}
	b.reopen()
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxDeliver: 1})
	b.publish("t", many("k", 0, events)...)
	for range events {
		b.next(s).Nack("no")
	}
	require.Eventually(t, func() bool { return b.stats("t").Groups[0].Dead == events }, waitLong, time.Millisecond)
	var ids []uint64
	for _, d := range b.deadLetters(pubsub.DeadLetterFilter{Limit: events}) {
		ids = append(ids, d.ID)
	}
	_, err := b.broker.Redrive(t.Context(), ids)
	require.NoError(t, err)
	for i := range events {
		b.expect(s, fmt.Sprint("k", i))
	}
	require.Less(t, engine.read.Load(), int64(5*events))
}
