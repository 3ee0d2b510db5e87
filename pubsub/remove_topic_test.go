package pubsub_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// engineInRemove does something right before and right after a topic is removed.
type engineInRemove struct {
	pubsub.Engine
	before, after func()
}

func (e *engineInRemove) RemoveTopic(ctx context.Context, topic string, may func() error) error {
	e.before()
	defer e.after()
	return e.Engine.RemoveTopic(ctx, topic, may)
}

func removing(b *bench, before, after func()) {
	b.wrap = func(e pubsub.Engine) pubsub.Engine { return &engineInRemove{e, before, after} }
	b.reopen()
}

// A topic that is removed while an app subscribes to it keeps what the app is owed, and the app is not left without it.
func TestATopicIsNotRemovedFromUnderAStream(t *testing.T) {
	b := newBench(t)
	for _, pattern := range []string{"t", "*"} {
		var s pubsub.Subscription
		removing(b, func() {
			s = b.subscribe(pubsub.SubscribeOptions{Group: "g" + pattern, Topic: pattern})
			b.expect(s, "before")
		}, func() {})
		b.publish("t", message("before"))
		require.ErrorContains(t, b.broker.RemoveTopic(t.Context(), "t"), "a topic that nobody consumes")
		b.publish("t", message("after"))
		b.expect(s, "after")
		s.Close()
		require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
		removing(b, func() {}, func() {})
		require.NoError(t, b.broker.RemoveTopic(t.Context(), "t"))
	}
}

// What is published to a topic that is being removed is the first of a new topic, and takes the places of others.
func TestARemovedTopicIsNotRemembered(t *testing.T) {
	const events = 10
	b := newBench(t)
	var s pubsub.Subscription
	removing(b, func() {}, func() {
		s = b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
		b.publish("t", message("first"))
		b.expect(s, "first")
	})
	for i := range events {
		b.publish("t", message(fmt.Sprint("removed", i)))
	}
	require.NoError(t, b.broker.RemoveTopic(t.Context(), "t"))
	for i := range events {
		b.publish("t", message(fmt.Sprint(i)))
		b.expect(s, fmt.Sprint(i))
	}
	require.EqualValues(t, events+1, b.stats("t").Published)
}

// A topic of which every event was refused is none, for anybody.
func TestARefusedPublishMakesNoTopic(t *testing.T) {
	b := newBench(t)
	b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "*"})
	for i := range 10 {
		errs := b.broker.Publish(t.Context(), fmt.Sprint("t", i), []pubsub.Message{message("x")}, pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxBytes: 1}})
		require.ErrorIs(t, errs[0], pubsub.ErrTopicFull)
	}
	b.publish("u", message("x"))
	require.NoError(t, b.broker.Close(t.Context()))
	all, err := b.broker.Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Len(t, all, 1)
}
