package boltengine

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func testKey(n uint64) dedupKey {
	return newDedupKey("t", binary.BigEndian.AppendUint64(nil, n))
}

func TestPlacesNeverMissAnID(t *testing.T) {
	var p places
	const n = segmentIDs + 5000
	for i := uint64(1); i <= n; i++ {
		p.add(testKey(i), i)
	}
	require.Len(t, p.segments, 2)
	for _, i := range []uint64{1, 2, segmentIDs, segmentIDs + 1, n} {
		require.True(t, p.find(testKey(i), func(number uint64) bool { return number == i }), "id %d", i)
	}
	guesses := 0
	for i := uint64(n + 1); i <= n+1000; i++ {
		require.False(t, p.find(testKey(i), func(uint64) bool { guesses++; return false }))
	}
	require.Less(t, guesses, 5, "wrong numbers among 1000 unknown ids")

	p.dropThrough(segmentIDs - 1)
	require.Len(t, p.segments, 2, "an id of the first segment is left")
	p.dropThrough(segmentIDs)
	require.Len(t, p.segments, 1)
	require.True(t, p.find(testKey(n), func(number uint64) bool { return number == n }))
}

func TestSeenIDsMatchAMapOfWindows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e, _ := open(t)
		until := map[byte]time.Time{}
		now := noon
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "step", "sweep"}).Draw(rt, "action") {
			case "append":
				id := rapid.Byte().Draw(rt, "id") % 8
				window := time.Duration(rapid.IntRange(1, 5).Draw(rt, "window")) * time.Minute
				entry := pubsub.Entry{Event: pubsub.Event{PublishTime: now}, DedupKey: []byte{id}, DedupWindow: window}
				results, err := e.Append(rt.Context(), "t", []pubsub.Entry{entry}, pubsub.AppendOptions{}, now)
				require.NoError(rt, err)
				end, seen := until[id]
				require.Equal(rt, seen && now.Before(end), results[0].Duplicate)
				if !results[0].Duplicate {
					until[id] = now.Add(window)
				}
			case "step":
				now = now.Add(time.Duration(rapid.IntRange(1, 120).Draw(rt, "seconds")) * time.Second)
			case "sweep":
				_, err := e.Sweep(rt.Context(), now, rapid.IntRange(1, 4).Draw(rt, "limit"), unclaimed)
				require.NoError(rt, err)
			}
		}
	})
}
