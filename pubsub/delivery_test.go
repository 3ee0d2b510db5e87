package pubsub_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestADeliveryEndsByItsNumberWhileItIsOut(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.publish("t", message("1"), message("2"), message("3"))
	require.Eventually(t, func() bool { return s.InFlight() == 3 }, waitLong, time.Millisecond)
	require.False(t, s.Ack(1), "Next has not returned it")

	first, second, third := b.next(s), b.next(s), b.next(s)
	require.Equal(t, []uint64{1, 2, 3}, []uint64{first.Number, second.Number, third.Number})
	require.False(t, s.Ack(4))

	require.True(t, s.Ack(second.Number))
	require.False(t, s.Nack(second.Number, "it has ended"))
	first.Ack()
	require.Empty(t, s.Emptied())
	require.True(t, s.Nack(third.Number, "no"))
	<-s.Emptied()
	require.Zero(t, s.InFlight())

	b.advance(0, 1)
	require.Equal(t, "3", string(b.next(s).Event.Data))
	b.publish("t", message("4"))
	fourth := b.next(s)
	require.EqualValues(t, 5, fourth.Number)
	fourth.Ack()
}

// Events that end before Next has returned them are not returned any more.
func TestAnEventThatEndsUntakenIsNotTaken(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", AckWait: waitLong, BackOff: pubsub.BackOff{waitLong}})
	b.publish("t", message("1"), message("2"))
	require.Eventually(t, func() bool { return s.InFlight() == 2 }, waitLong, time.Millisecond)
	b.advance(waitLong, 2)
	require.Eventually(t, func() bool { return s.InFlight() == 1 }, waitLong, time.Millisecond)
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
