//go:build !race

package pubsub_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// TestAllocs keeps the allocations of an event in check, from its publish to where it is settled on disk. How many
// settlements share a commit is a matter of timing, for which the bound leaves room. The race detector allocates too.
func TestAllocs(t *testing.T) {
	const batch, most = 1000, 28
	broker := startBroker(t)
	stream, err := broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxAckPending: benchClients})
	require.NoError(t, err)
	id, data := 0, make([]byte, benchData)
	got := testing.AllocsPerRun(10, func() {
		events := make([]pubsub.Message, batch)
		for i := range events {
			id++
			events[i] = pubsub.Message{EventID: strconv.Itoa(id), Data: data}
		}
		for _, err := range broker.Publish(t.Context(), "t", events, byID) {
			require.NoError(t, err)
		}
		require.NoError(t, takeAndAck(t.Context(), stream, batch))
	}) / batch
	t.Logf("published, delivered and acknowledged: %.1f allocations", got)
	assert.LessOrEqual(t, got, float64(most), "allocations of an event")
}
