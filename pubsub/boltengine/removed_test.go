package boltengine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// A process that is killed between a topic's removal and the last of its steps goes on with them when it runs again, and
// leaves alone what came up under the same name.
func TestWhatARemovedTopicHasLeftBehindGoesAfterARestart(t *testing.T) {
	e, db := open(t)
	_, err := e.OpenGroup(t.Context(), "t", "a", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	appendAll(t, e, "t", entries(200))
	delayed := entries(50)
	for i := range delayed {
		delayed[i].Event.DeliverAt = noon.Add(time.Hour)
	}
	appendAll(t, e, "t", delayed)
	var settlements []pubsub.Settlement
	for s := range uint64(60) {
		outcome := pubsub.Dead
		if s%2 == 0 {
			outcome = pubsub.Retried
		}
		settlements = append(settlements, pubsub.Settlement{Outcome: outcome, Sequence: 2*s + 3, Due: noon.Add(time.Minute), At: noon, Reason: pubsub.ReasonMaxDeliver})
	}
	settle(t, e, "a", settlements)
	require.NoError(t, e.forgetTopic(t.Context(), "t", func() error { return nil }))

	e, err = New(t.Context(), db, "pubsub")
	require.NoError(t, err)
	_, err = e.OpenGroup(t.Context(), "t", "a", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	appendAll(t, e, "t", entries(1))
	settle(t, e, "a", []pubsub.Settlement{{Outcome: pubsub.Dead, Sequence: 1, At: noon, Reason: pubsub.ReasonMaxDeliver}})
	for more := true; more; {
		more, err = e.Sweep(t.Context(), noon, 16)
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int{"topics": 1, "groups": 1, "dead": 1}, counts(t, e, db))
	stats, err := e.TopicStats(t.Context(), "t")
	require.NoError(t, err)
	require.Zero(t, stats.Delayed)
	require.Zero(t, stats.Bytes)
	require.EqualValues(t, 1, stats.Groups[0].Dead)
	require.Zero(t, stats.Groups[0].Retrying)
}
