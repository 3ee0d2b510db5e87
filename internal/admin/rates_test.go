package admin

import (
	"context"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestRatesAreOfTheLastMinutes(t *testing.T) {
	d := newData(t)
	clock := clockwork.NewFakeClock()
	d.publish("orders", "before anybody looks")
	opts := d.service.opts
	opts.Clock, opts.Metrics = clock, d.metrics
	s := NewService(opts)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	state := d.metrics.State("dapr", "state")
	// turn lets the counters be read once more.
	readings := 0
	turn := func(passed time.Duration) {
		clock.Advance(passed)
		readings++
		require.Eventually(t, func() bool {
			s.ratesMu.Lock()
			defer s.ratesMu.Unlock()
			return len(s.readings) == readings && clock.BlockUntilContext(t.Context(), 1) == nil && len(s.topicReadings) > 0
		}, waitLong, time.Millisecond)
	}
	turn(0)
	for range 10 {
		d.publish("orders", "1")
		state.Called(metrics.Set, metrics.OK, time.Millisecond)
	}
	d.next(d.subscribe(pubsub.SubscribeOptions{Topic: "orders"})).Ack()
	turn(rateEvery)
	turn(rateEvery)

	o, err := CallOverview.Do(t.Context(), s, Empty{})
	require.NoError(t, err)
	require.Equal(t, []float64{2, 0}, o.Rates.Sets, "10 in 5 seconds, and then none")
	require.Equal(t, []float64{2, 0}, o.Rates.Published)
	require.Positive(t, o.Rates.CommitSeconds[0])
	topics, err := CallTopics.Do(t.Context(), s, TopicsRequest{})
	require.NoError(t, err)
	require.InDelta(t, 1, topics.Topics[0].RateIn, 0.001, "10 in 10 seconds")
	require.Positive(t, topics.Topics[0].RateOut)

	for range ratesKept {
		clock.Advance(rateEvery)
		require.NoError(t, clock.BlockUntilContext(t.Context(), 1))
	}
	require.Eventually(t, func() bool {
		clock.Advance(rateEvery)
		topic, err := CallTopic.Do(t.Context(), s, TopicRequest{Topic: "orders"})
		return err == nil && topic.RateIn == 0 && topic.RateOut == 0
	}, waitLong, time.Millisecond)
	require.LessOrEqual(t, len(s.rates().Sets), ratesKept)
}
