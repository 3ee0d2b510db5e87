package pubsub_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestADeliveryIsFoundByItsNumberWhileItIsOut(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.publish("t", message("1"), message("2"), message("3"))
	require.Eventually(t, func() bool { return s.InHand() == 3 }, waitLong, time.Millisecond)
	require.Nil(t, s.Delivery(1), "Next has not returned it")

	first, second, third := b.next(s), b.next(s), b.next(s)
	require.Equal(t, []uint64{1, 2, 3}, []uint64{first.Number, second.Number, third.Number})
	require.Same(t, second, s.Delivery(second.Number))
	require.Nil(t, s.Delivery(4))

	second.Ack()
	require.Nil(t, s.Delivery(second.Number), "it has ended")
	first.Ack()
	require.Same(t, third, s.Delivery(third.Number))
	require.Empty(t, s.Emptied())
	third.Ack()
	<-s.Emptied()
	require.Zero(t, s.InHand())

	b.publish("t", message("4"))
	fourth := b.next(s)
	require.EqualValues(t, 4, fourth.Number)
	fourth.Ack()
}

// Events that end before Next has returned them are not returned any more.
func TestAnEventThatEndsUntakenIsNotTaken(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: waitLong, BackOff: pubsub.BackOff{waitLong}})
	b.publish("t", message("1"), message("2"))
	require.Eventually(t, func() bool { return s.InHand() == 2 }, waitLong, time.Millisecond)
	b.advance(waitLong, 2)
	require.Eventually(t, func() bool { return s.InHand() == 1 }, waitLong, time.Millisecond)
	b.expect(s, "2")
}

func TestTheContextOfADeliveryThatHasEndedHasEnded(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.publish("t", message("1"), message("2"))
	asked, unasked := b.next(s), b.next(s)
	require.NoError(t, asked.Context().Err())
	asked.Ack()
	unasked.Ack()
	require.Error(t, asked.Context().Err())
	require.Error(t, unasked.Context().Err())
}
