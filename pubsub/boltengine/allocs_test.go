//go:build !race

package boltengine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// TestAllocs keeps the allocations of a call in check, those of its commit included: nothing else shares it. The race
// detector allocates too.
func TestAllocs(t *testing.T) {
	const many = 64
	e, _ := open(t)
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	published := int64(0)
	publish := func(n int) func() {
		return func() {
			list := make([]pubsub.Entry, n)
			for i := range list {
				published++
				list[i] = benchEntry(published)
			}
			_, err := e.Append(t.Context(), "t", list, pubsub.AppendOptions{}, noon)
			require.NoError(t, err)
		}
	}
	done := uint64(0)
	settle := func() {
		events, _, err := e.ReadLog(t.Context(), "t", "g", done, many, 1<<20)
		require.NoError(t, err)
		require.Len(t, events, many)
		_, err = e.Settle(t.Context(), "t", "g", settledAll(events))
		require.NoError(t, err)
		done += many
	}
	const runs = 50
	for range runs + 1 {
		publish(many)()
	}
	for _, c := range []struct {
		call string
		most float64
		run  func()
	}{
		{"append", 166, publish(1)},
		{"append of 64", 1300, publish(many)},
		{"reading and settling of 64", 905, settle},
	} {
		got := testing.AllocsPerRun(runs, c.run)
		t.Logf("%s: %.0f allocations", c.call, got)
		assert.LessOrEqual(t, got, c.most, "allocations of an %s", c.call)
	}
}
