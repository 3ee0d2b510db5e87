package pubsub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	budgetBytes = 4 << 20
	bigEvent    = 600 << 10
)

// big is an event that begins with its number.
func big(i int) pubsub.Message {
	data := make([]byte, bigEvent)
	copy(data, fmt.Sprintf("%03d", i))
	return pubsub.Message{Data: data}
}

func newBudgetBench(t *testing.T) (*bench, *pubsub.Budget) {
	b := newBench(t)
	budget := pubsub.NewBudget(budgetBytes)
	b.opts.Budget = budget
	b.reopen()
	return b, budget
}

// Streams that take nothing off their hands hold what the budget allows, and one event each; others are served on.
func TestSlowStreamsHoldNoMoreThanTheBudget(t *testing.T) {
	const slow, events = 5, 20
	b, budget := newBudgetBench(t)
	good := b.subscribe(pubsub.SubscribeOptions{Group: "good", Topic: "t"})
	var stuck []pubsub.Subscription
	for i := range slow {
		stuck = append(stuck, b.subscribe(pubsub.SubscribeOptions{Group: fmt.Sprint("slow", i), Topic: "t"}))
	}
	for i := range events {
		b.publish("t", big(i))
		d := b.next(good)
		require.Equal(t, fmt.Sprintf("%03d", i), string(d.Event.Data[:3]))
		require.LessOrEqual(t, budget.Used(), int64(budgetBytes+(slow+1)*(bigEvent+4<<10)))
		d.Ack()
	}
	for _, s := range stuck {
		require.Eventually(t, func() bool { return s.InFlight() > 0 }, waitLong, time.Millisecond, "each has one event")
	}
	require.LessOrEqual(t, budget.Used(), int64(budgetBytes+(slow+1)*(bigEvent+4<<10)))
	// All of it comes as soon as it is asked for, one stream after the other and all within the budget.
	for _, s := range stuck {
		for i := range events {
			d := b.next(s)
			require.Equal(t, fmt.Sprintf("%03d", i), string(d.Event.Data[:3]))
			d.Ack()
		}
	}
	require.Eventually(t, func() bool { return budget.Used() == 0 }, waitLong, time.Millisecond)
}

// Groups that wait for room get it from whoever leaves, also when those before them in the line want none any more.
func TestRoomThatIsLeftIsUsed(t *testing.T) {
	b, budget := newBudgetBench(t)
	for i := range 20 {
		b.publish("t", big(i))
	}
	hog := b.subscribe(pubsub.SubscribeOptions{Group: "hog", Topic: "t"})
	require.Eventually(t, func() bool { return hog.InFlight() >= 5 }, waitLong, time.Millisecond)
	var waiting []pubsub.Subscription
	for i := range 4 {
		s := b.subscribe(pubsub.SubscribeOptions{Group: fmt.Sprint("waiting", i), Topic: "t", MaxAckPending: 2})
		b.next(s)
		require.Equal(t, 1, s.InFlight(), "there is no room for more")
		waiting = append(waiting, s)
	}
	for _, s := range waiting[:3] {
		s.Pause()
	}
	hog.Close()
	// The first is still in flight: only the room that was left lets more in.
	b.next(waiting[3])
	waiting[0].Resume()
	b.next(waiting[0])
	require.LessOrEqual(t, budget.Used(), int64(budgetBytes))
	for _, s := range waiting {
		s.Close()
	}
	require.Eventually(t, func() bool { return budget.Used() == 0 }, waitLong, time.Millisecond)
}

// Out of room, a stream that has nothing in flight is not passed over for one that has.
func TestAnEmptyStreamOfAGroupIsNotPassedOver(t *testing.T) {
	b, _ := newBudgetBench(t)
	for i := range 30 {
		b.publish("t", big(i))
	}
	hog := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	require.Eventually(t, func() bool { return hog.InFlight() >= 5 }, waitLong, time.Millisecond)
	for range 3 {
		b.next(b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"}))
	}
}

// Events that wait for an earlier one with their key wait on disk, and come in order.
func TestParkedEventsStayOnDisk(t *testing.T) {
	const events = 12
	b, budget := newBudgetBench(t)
	for i := range events {
		m := big(i)
		m.PartitionKey = "k"
		b.publish("t", m)
	}
	last := big(events)
	last.PartitionKey = "l"
	b.publish("t", last)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	first, other := b.next(s), b.next(s)
	require.Equal(t, "000", string(first.Event.Data[:3]))
	require.Equal(t, fmt.Sprintf("%03d", events), string(other.Event.Data[:3]), "another key waits for nobody")
	// A read that goes on has room reserved.
	require.Eventually(t, func() bool { return budget.Used() < 3*bigEvent }, waitLong, time.Millisecond)
	other.Ack()
	first.Ack()
	for i := 1; i < events; i++ {
		d := b.next(s)
		require.Equal(t, fmt.Sprintf("%03d", i), string(d.Event.Data[:3]))
		require.True(t, bytes.Equal(big(i).Data, d.Event.Data))
		d.Ack()
	}
}

// Two topics of one wildcard stream look for its only slot at the same time; the one that finds it taken for nothing
// must look again.
func TestASlotThatWasNotUsedIsOfferedAgain(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t.*", MaxAckPending: 1})
	for i := range 300 {
		for topic := range 4 {
			b.publish(fmt.Sprint("t.", topic), message(fmt.Sprint(i)))
		}
		for range 4 {
			b.next(s).Ack()
		}
	}
}

func TestNamesAreLimited(t *testing.T) {
	b := newBench(t)
	b.opts.NameLimits = pubsub.NameLimits{MaxTopics: 3, MaxGroups: 2}
	b.reopen()
	publish := func(topic string) error {
		return b.broker.Publish(t.Context(), topic, []pubsub.Message{message("x")}, byID)[0]
	}
	subscribe := func(topic, group string) error {
		s, err := b.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: topic, Group: group})
		if err == nil {
			s.Close()
		}
		return err
	}
	for range 2 { // after a restart, too
		require.NoError(t, publish("a"))
		require.NoError(t, publish("b"))
		require.NoError(t, subscribe("c", "1"))
		require.EqualError(t, publish("d"), `publish to topic "d": too many topics: the bucket has 3; --max-topics allows no more than 3`)
		require.EqualError(t, subscribe("d", "1"), `subscribe group "1" to topic "d": too many topics: the bucket has 3; --max-topics allows no more than 3`)
		require.ErrorIs(t, publish("d"), pubsub.ErrTooManyTopics)

		require.NoError(t, subscribe("c", "2"))
		require.EqualError(t, subscribe("c", "3"), `subscribe group "3" to topic "c": too many consumer groups: topic "c" has 2; --max-groups allows no more than 2`)
		require.ErrorIs(t, subscribe("c", "3"), pubsub.ErrTooManyGroups)
		require.NoError(t, subscribe("a", "3"), "it is another topic's")
		require.NoError(t, subscribe("*", "1"))
		require.NoError(t, subscribe("a.>", "1"))
		require.EqualError(t, subscribe("b.>", "1"), `subscribe group "1" to topic "b.>": too many consumer groups: the bucket has 2 with wildcard subscriptions; --max-groups allows no more than 2`)
		b.reopen()
	}
	topics, err := b.broker.Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Len(t, topics, 3, "what was refused left nothing behind")
	require.NoError(t, b.broker.RemoveGroup(t.Context(), "c", "2"))
	require.NoError(t, subscribe("c", "3"), "there is room again")
}

func TestAllOrNothing(t *testing.T) {
	b := newBench(t)
	fields, err := pubsub.ParseDedupBy("fields:id")
	require.NoError(t, err)
	publish := func(opts pubsub.PublishOptions, data ...string) []error {
		opts.AllOrNothing, opts.DedupWindow = true, time.Minute
		var messages []pubsub.Message
		for _, d := range data {
			messages = append(messages, message(d))
		}
		return b.broker.Publish(context.Background(), "t", messages, opts)
	}
	outcomes := publish(pubsub.PublishOptions{DedupBy: fields}, `{"id":1}`, `{}`, `{"id":2}`)
	var refused *invalid.Error
	require.ErrorAs(t, outcomes[1], &refused)
	require.ErrorIs(t, errors.Join(outcomes[0], outcomes[2]), pubsub.ErrOthersRefused)
	require.Zero(t, b.stats("t").Stored)

	for _, err := range publish(pubsub.PublishOptions{DedupBy: fields}, `{"id":1}`) {
		require.NoError(t, err)
	}
	full := pubsub.PublishOptions{DedupBy: fields, Limits: pubsub.TopicLimits{MaxBytes: 300}}
	large := fmt.Sprintf(`{"id":3,"x":"%0400d"}`, 0)
	outcomes = publish(full, `{"id":1}`, `{"id":2}`, large)
	require.ErrorIs(t, outcomes[0], pubsub.ErrOthersRefused, "a duplicate shares the fate of the call")
	require.ErrorIs(t, outcomes[1], pubsub.ErrOthersRefused)
	require.ErrorIs(t, outcomes[2], pubsub.ErrTopicFull)
	require.Equal(t, uint64(1), b.stats("t").Stored)
	for _, err := range publish(full, `{"id":1}`, `{"id":2}`) {
		require.NoError(t, err, "its id is not taken for seen")
	}
	require.Equal(t, uint64(2), b.stats("t").Stored)
}
