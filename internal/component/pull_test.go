package component

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestPullNeedsATopicFirst(t *testing.T) {
	c := newHouse(t).bus("a", "consumerID", "app")
	for name, first := range map[string]*proto.PullMessagesRequest{
		"ack":   {AckMessageId: "x"},
		"empty": {Topic: &proto.Topic{}},
	} {
		s, err := c.pubsub.PullMessages(c.ctx)
		require.NoError(t, err)
		require.NoError(t, s.Send(first), name)
		_, err = s.Recv()
		requireInvalid(t, err, "topic's name in the first message")
	}
	s, err := c.pubsub.PullMessages(c.ctx)
	require.NoError(t, err)
	require.NoError(t, s.CloseSend())
	_, err = s.Recv()
	requireInvalid(t, err, "topic's name in the first message")

	_, err = c.pull(t, "a.>.b").Recv()
	requireInvalid(t, err, "topic")
}

// Fault: events in flight beside one another overtake each other on their way to the stream.
func TestPullKeepsTheOrder(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app", "dedupBy", "none")
	const events = 500
	for i := range events {
		require.NoError(t, c.publish("t", fmt.Sprint(i)))
	}
	s := c.pull(t, "t", "maxAckPending", "50")
	var unacked []string
	for i := range events {
		m := s.next()
		require.Equal(t, fmt.Sprint(i), string(m.GetData()))
		unacked = append(unacked, m.GetId())
		if len(unacked) == 50 { // the stream has as many in flight as it may
			for _, id := range unacked {
				s.ack(id)
			}
			unacked = nil
		}
	}
}

// Fault: an acknowledgement that comes twice panics. Those that mean nothing must not end the stream.
func TestPullIgnoresStrayAcknowledgements(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	s.ack("never sent")
	for i := range 50 {
		require.NoError(t, c.publish("t", fmt.Sprint(i)))
		m := s.next()
		require.Equal(t, fmt.Sprint(i), string(m.GetData()))
		s.ack(m.GetId())
		s.ack(m.GetId())
		s.nack(m.GetId(), "too late")
		s.ack("never sent")
	}
	require.NoError(t, s.CloseSend())
	_, err := s.Recv()
	require.ErrorIs(t, err, io.EOF)
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Waiting == 0 }, patience, time.Millisecond)
	log := h.log.String()
	require.Equal(t, 1, strings.Count(log, "ignored an acknowledgement"), "no flood")
	require.Contains(t, log, "count=151")
	require.NotContains(t, log, "panic")
}

// Who comes back after a break may still hold ids of the stream before.
func TestPullIgnoresAcknowledgementsOfAnotherStream(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	require.NoError(t, c.publish("t", "1"))
	before := c.pull(t, "t")
	old := before.next()
	before.cancel()
	s := c.pull(t, "t")
	m := s.next()
	require.NotEqual(t, old.GetId(), m.GetId())
	s.ack(old.GetId())
	require.Eventually(t, func() bool { return strings.Contains(h.log.String(), "ignored an acknowledgement") }, patience, time.Millisecond)
	require.EqualValues(t, 1, groupStats(t, h, "t", "app").InFlight, "the event is still out")
	s.ack(m.GetId())
	require.Eventually(t, func() bool {
		g := groupStats(t, h, "t", "app")
		return g.InFlight+g.Waiting == 0
	}, patience, time.Millisecond)
}

func TestAStreamThatEndsPutsBackUncounted(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app", "backOff", "0")
	for range 3 {
		require.NoError(t, c.publish("t", "1"))
		s := c.pull(t, "t")
		m := s.next()
		require.Equal(t, "1", m.GetMetadata()["deliveryCount"])
		require.Equal(t, "1", m.GetMetadata()["sequence"])
		s.cancel()
		// A client that only stops sending has left too.
		s = c.pull(t, "t")
		require.Equal(t, "1", s.next().GetMetadata()["deliveryCount"])
		require.NoError(t, s.CloseSend())
		for err := error(nil); err == nil; {
			if _, err = s.Recv(); err != nil {
				require.ErrorIs(t, err, io.EOF)
			}
		}
	}
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Streams == 0 }, patience, time.Millisecond)
}

// A consumer that ends its stream over an event, again and again, does not hold its group up for ever.
func TestAnEventOverWhichTheClientEndsItsStreamsBecomesADeadLetter(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app", "backOff", "0", "maxDeliver", "2")
	require.NoError(t, c.publish("t", "poison"))
	require.NoError(t, c.publish("t", "2"))
	for _, leave := range []func(*stream){func(s *stream) { s.cancel() }, func(s *stream) { require.NoError(t, s.CloseSend()) }} {
		s := c.pull(t, "t")
		require.Equal(t, "poison", string(s.next().GetData()))
		leave(s)
		require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Streams == 0 }, patience, time.Millisecond)
	}
	s := c.pull(t, "t")
	m := s.next()
	require.Equal(t, "2", string(m.GetData()))
	s.ack(m.GetId())
	dead, _, err := h.broker().DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, pubsub.ReasonInterrupted, dead[0].Reason)
}

// That this process stops says nothing of the event that is being handled.
func TestAStopIsNoInterruption(t *testing.T) {
	h := newHouse(t)
	for range 3 {
		c := h.bus("a", "consumerID", "app", "backOff", "0", "maxDeliver", "1")
		s := c.pull(t, "t")
		require.NoError(t, c.publish("t", "1", "eventID", "1"))
		require.Equal(t, "1", string(s.next().GetData()))
		h.stop()
		h.start()
	}
	require.EqualValues(t, 1, groupStats(t, h, "t", "app").Waiting)
	require.Zero(t, groupStats(t, h, "t", "app").Dead)
}

// A client that stops sending while it does not read what is on its way must not hold anything up for ever.
func TestAStreamEndsWhileAnEventIsStuck(t *testing.T) {
	h := newHouse(t, func(h *house) { h.clock = clockwork.NewFakeClock() }) // or the limiter would end it
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	for i := range 4 {
		require.NoError(t, c.publish("t", fmt.Sprint(i)+strings.Repeat("x", 1<<20)))
	}
	// The first fills what lies between the two, and the second waits.
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Delivered == 2 }, patience, time.Millisecond)
	require.NoError(t, s.CloseSend())
	require.Eventually(t, func() bool {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		return len(h.server.pulls) == 0
	}, patience, time.Millisecond)
	require.NoError(t, s.Context().Err(), "the client's own deadline has not ended it")
}

// An event whose ackWait ran out is delivered again, counted; its ack counts once, even so.
func TestAckWait(t *testing.T) {
	clock := clockwork.NewFakeClock()
	h := newHouse(t, func(h *house) { h.clock = clock })
	c := h.bus("a", "consumerID", "app", "ackWait", "5s", "backOff", "0", "maxDeliver", "2")
	s := c.pull(t, "t")
	require.NoError(t, c.publish("t", "1"))
	first := s.next()
	clock.Advance(5 * time.Second)
	second := s.next()
	require.Equal(t, "2", second.GetMetadata()["deliveryCount"])
	require.NotEqual(t, first.GetId(), second.GetId())
	s.ack(first.GetId())
	s.ack(first.GetId())
	require.Eventually(t, func() bool { return strings.Contains(h.log.String(), "ignored an acknowledgement") }, patience, time.Millisecond)
	s.nack(second.GetId(), "no")
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Waiting == 0 }, patience, time.Millisecond)
	require.Zero(t, groupStats(t, h, "t", "app").Dead)
	require.NotContains(t, h.log.String(), "panic")
}

func TestSubscriptionsThatEndWithTheServerAreMissing(t *testing.T) {
	h := newHouse(t)
	c := h.bus("todo-pubsub", "consumerID", "app")
	left := c.pull(t, "t")
	c.pull(t, "u")
	require.Eventually(t, func() bool { return h.noted(`"streams": 2`) }, patience, time.Millisecond)
	left.cancel()
	require.Eventually(t, func() bool { return h.noted(`"streams": 1`) }, patience, time.Millisecond)
	require.Empty(t, h.sidecars.Missing())
	h.restart()
	require.Equal(t, []string{"todo-pubsub"}, h.sidecars.Missing())
	h.bus("another", "consumerID", "app").pull(t, "t")
	h.dial("todo-pubsub").pull(t, "u")
	require.Eventually(t, func() bool { return len(h.sidecars.Missing()) == 0 }, patience, time.Millisecond)
}

// noted reports whether a text stands in the record of sidecars.
func (h *house) noted(text string) bool {
	raw, err := os.ReadFile(filepath.Join(h.dir, "data", "sidecars.json"))
	return err == nil && strings.Contains(string(raw), text)
}

func TestStopWaitsForWhatIsInHand(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	require.NoError(t, c.publish("t", "1"))
	m := s.next()
	late, err := c.pubsub.PullMessages(c.ctx)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return h.server.Limits()[1].Used == 2 }, patience, time.Millisecond)

	stopped := make(chan error, 1)
	go func() { stopped <- h.server.Stop(context.Background()) }()
	require.Eventually(t, func() bool { return !h.server.socket.ours() }, patience, time.Millisecond)
	require.ErrorIs(t, h.server.Ready(), ErrStopping)
	_, err = c.pull(t, "t").Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), err)
	require.NoError(t, c.publish("t", "2"), "calls of sidecars that are connected are answered until the end")
	require.NoError(t, late.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: "t"}}))
	_, err = late.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), "what it brought would not be waited for")
	select {
	case <-stopped:
		require.Fail(t, "an event is still in the app's hands")
	default:
	}
	s.ack(m.GetId())
	_, err = s.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), err)
	require.ErrorContains(t, err, ErrStopping.Error())
	require.NoError(t, <-stopped)
	require.NoFileExists(t, h.server.SocketPath())
	require.NotContains(t, h.log.String(), "level=ERROR", "a stop is no failure of a stream")
	require.NoError(t, h.server.Stop(context.Background()), "a second Stop is a wait")

	h.stop()
	h.start()
	s = h.bus("a", "consumerID", "app").pull(t, "t")
	m = s.next()
	require.Equal(t, "2", string(m.GetData()), "the first is done")
	require.Equal(t, "1", m.GetMetadata()["deliveryCount"])
}

func TestStopIsBounded(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	require.NoError(t, c.publish("t", "1"))
	s.next()
	h.stop() // with a context that has ended
	h.start()
	s = h.bus("a", "consumerID", "app").pull(t, "t")
	require.Equal(t, "1", s.next().GetMetadata()["deliveryCount"], "uncounted")
}
