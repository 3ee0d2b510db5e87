package boltengine

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func testHash(n uint64) pubsub.DedupHash {
	return pubsub.NewDedupHash("t", binary.BigEndian.AppendUint64(nil, n))
}

func TestTheDedupIndexNeverMissesAnID(t *testing.T) {
	var x dedupIndex
	const n = segmentIDs + 5000
	id := func(i uint64) dedupID { return dedupID{time.Duration(1 + i%2), i} }
	for i := uint64(1); i <= n; i++ {
		x.add(id(i), testHash(i))
	}
	require.Len(t, x.segments, 4, "two for each window")
	for _, i := range []uint64{1, 2, segmentIDs, segmentIDs + 1, n} {
		require.True(t, x.find(testHash(i), func(got dedupID) bool { return got == id(i) }), "id %d", i)
	}
	guesses := 0
	for i := uint64(n + 1); i <= n+1000; i++ {
		require.False(t, x.find(testHash(i), func(dedupID) bool { guesses++; return false }))
	}
	require.Less(t, guesses, 5, "wrong places among 1000 unknown ids")

	for i := uint64(1); i <= segmentIDs; i += 2 {
		x.remove(id(i))
	}
	require.Len(t, x.segments, 3, "the first of one window is empty")
	require.True(t, x.find(testHash(2), func(got dedupID) bool { return got == id(2) }), "those of the other window are there")
	require.True(t, x.find(testHash(n), func(got dedupID) bool { return got == id(n) }))
}

// Ids of several windows, swept in steps and loaded anew, are duplicates exactly as long as their window says, and leave
// the file when it has ended.
func TestDedupMatchesAMapOfWindows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e, db := open(t)
		until := map[byte]time.Time{}
		now := noon
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "append", "step", "sweep", "reopen"}).Draw(rt, "action") {
			case "append":
				id := rapid.Byte().Draw(rt, "id") % 8
				window := time.Duration(rapid.SampledFrom([]int{1, 3}).Draw(rt, "minutes")) * time.Minute
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
				_, err := e.Sweep(rt.Context(), now, rapid.IntRange(1, 4).Draw(rt, "limit"))
				require.NoError(rt, err)
			case "reopen":
				var err error
				e, err = New(rt.Context(), db, "pubsub")
				require.NoError(rt, err)
			}
		}
		for more := true; more; {
			var err error
			more, err = e.Sweep(rt.Context(), now, 4)
			require.NoError(rt, err)
		}
		open := 0
		for _, end := range until {
			if now.Before(end) {
				open++
			}
		}
		require.Equal(rt, open, counts(t, e, db)["ids"])
	})
}
