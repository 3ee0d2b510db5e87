package component

import (
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

// withFakeClock starts a house whose clock the test moves.
func withFakeClock(t *testing.T) (*house, *clockwork.FakeClock) {
	clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC))
	return newHouse(t, func(h *house) { h.clock = clock }), clock
}

// sweeps lets the sweep run at least once.
func sweeps(t *testing.T, h *house, clock *clockwork.FakeClock) {
	t.Helper()
	// What has an age of its own shows that a sweep took place.
	require.NoError(t, h.bus("marker", "maxAge", "1s").publish("marker", "x"))
	require.Eventually(t, func() bool {
		clock.Advance(time.Second)
		return topicStats(t, h, "marker").Stored == 0
	}, patience, time.Millisecond)
}

func TestMaxAgeZeroTakesEffectOnATopicThatHadAnother(t *testing.T) {
	h, clock := withFakeClock(t)
	require.NoError(t, h.bus("a", "maxAge", "1h").publish("t", "1"))
	require.NoError(t, h.bus("b", "maxAge", "0").publish("t", "2"))
	clock.Advance(2 * time.Hour)
	sweeps(t, h, clock)
	require.EqualValues(t, 2, topicStats(t, h, "t").Stored)
}

func TestTheAgeOfAHeldBackEventCountsFromWhenItWasDue(t *testing.T) {
	h, clock := withFakeClock(t)
	c := h.bus("a", "consumerID", "app", "maxAge", "1h")
	c.pull(t, "t").cancel()
	require.NoError(t, c.publish("t", "later", "deliverAfter", "5h"))
	clock.Advance(5 * time.Hour)
	sweeps(t, h, clock)
	s := c.pull(t, "t", "backOff", "30m")
	m := s.next()
	require.Equal(t, "later", string(m.GetData()))
	s.nack(m.GetId(), "not yet")
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Retrying == 1 }, patience, time.Millisecond)
	clock.Advance(40 * time.Minute)
	m = s.next()
	require.Equal(t, "2", m.GetMetadata()["deliveryCount"], "as a retry, too")
	s.nack(m.GetId(), "not yet")
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").InFlight == 0 }, patience, time.Millisecond)
	clock.Advance(time.Hour)
	require.Equal(t, pubsub.ReasonMaxAge, h.dead(t, 1)[0].Reason)
}

func TestAnEventThatExpiresWhileItWaitsForItsRetryIsCounted(t *testing.T) {
	h, clock := withFakeClock(t)
	for group, keep := range map[string]string{"drops": "false", "keeps": "true"} {
		c := h.bus("a", "consumerID", group, "backOff", "1h", "deadLetterExpired", keep)
		s := c.pull(t, group)
		require.NoError(t, c.publish(group, "x", "ttlInSeconds", "60"))
		s.nack(s.next().GetId(), "refused")
		require.Eventually(t, func() bool { return groupStats(t, h, group, group).Retrying == 1 }, patience, time.Millisecond)
	}
	clock.Advance(2 * time.Hour)
	dead := h.dead(t, 1)
	require.Equal(t, "keeps", dead[0].Group)
	require.Equal(t, pubsub.ReasonExpired, dead[0].Reason)
	require.Eventually(t, func() bool { return groupStats(t, h, "drops", "drops").Expired == 1 }, patience, time.Millisecond)
	require.Zero(t, groupStats(t, h, "keeps", "keeps").Expired)
	require.Zero(t, groupStats(t, h, "drops", "drops").Retrying)
}

// Times that what is stored cannot hold are refused, with what can be.
func TestTimesBeyondTheLatestAreRefused(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a")
	requireInvalid(t, c.publish("t", "x", "deliverAt", "9999-12-31T23:59:59Z"), `invalid deliverAt "9999-12-31T23:59:59Z": allowed: a time up to 2262-04-11T23:47:16Z`)
	require.NoError(t, c.publish("t", "x", "deliverAt", "2262-04-11T23:47:16Z"))
	requireInvalid(t, c.publish("t", "x", "deliverAfter", "2500000h"), `invalid deliverAfter "2500000h": allowed: a duration of 0 or more, up to 2147483647 seconds, such as 30s or 168h`)
	require.NoError(t, c.publish("t", "x", "deliverAfter", "2147483647"))
	require.EqualValues(t, 2, topicStats(t, h, "t").Delayed)
	for _, key := range []string{"dedupWindow", "maxAge", "ackWait", "backOff"} {
		_, err := c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{key: "2500000h"}}})
		requireInvalid(t, err, "invalid "+key+` "2500000h"`)
		require.ErrorContains(t, err, "up to 2147483647 seconds")
	}
}

// maxBytes counts what a topic's events take wherever they stand but as dead letters.
func TestMaxBytesCountsEventsThatAreRetriedRedrivenAndDelayed(t *testing.T) {
	h, _ := withFakeClock(t)
	kib := strings.Repeat("x", 1<<10)
	full := func(c *sidecar, topic string) {
		t.Helper()
		err := c.publish(topic, kib)
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		require.ErrorContains(t, err, "the topic is full")
	}
	c := h.bus("a", "consumerID", "app", "maxBytes", "10Ki", "backOff", "1h")
	s := c.pull(t, "retried")
	for range 9 {
		require.NoError(t, c.publish("retried", kib))
		s.nack(s.next().GetId(), "refused")
	}
	require.Eventually(t, func() bool {
		all := topicStats(t, h, "retried")
		return all.Stored == 0 && all.Groups[0].InFlight == 0 && all.Groups[0].Retrying == 9
	}, patience, time.Millisecond)
	full(c, "retried")

	for range 9 {
		require.NoError(t, c.publish("delayed", kib, "deliverAfter", "1h"))
	}
	full(c, "delayed")

	dying := c.pull(t, "dead", "maxDeliver", "1")
	for range 9 {
		require.NoError(t, c.publish("dead", kib))
		dying.nack(dying.next().GetId(), "refused")
	}
	dead := h.dead(t, 9)
	require.NoError(t, c.publish("dead", kib), "dead letters do not count")
	m := dying.next()
	dying.cancel()
	require.NotEmpty(t, m.GetId())
	require.Eventually(t, func() bool { return groupStats(t, h, "dead", "app").Streams == 0 }, patience, time.Millisecond)
	for _, d := range dead {
		_, err := h.broker().Redrive(t.Context(), []uint64{d.ID})
		require.NoError(t, err)
	}
	full(c, "dead")
}
