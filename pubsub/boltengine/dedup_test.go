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
	const n, together = segmentIDs + 5000, 3
	at := func(i uint64) dedupPlace { return dedupPlace{time.Duration(1 + i/together%2), i / together} }
	found := func(i uint64) bool {
		return x.find(testHash(i), func(got dedupPlace) bool { return got == at(i) })
	}
	for i := uint64(0); i < n; i += together {
		block := &dedupBlock{dedupPlace: at(i)}
		for j := range uint64(together) {
			block.ids = appendDedupID(block.ids, noon, testHash(i+j))
		}
		x.add(block)
	}
	require.Len(t, x.segments, 2, "one for each window")
	for i := uint64(0); i < segmentIDs; i++ { // of the second window, one at a time
		number := n/together + 1 + i
		x.add(&dedupBlock{dedupPlace{2, number}, appendDedupID(nil, noon, testHash(n+together+i))})
	}
	require.Len(t, x.segments, 3, "the second window has another one")
	for _, i := range []uint64{0, 1, 2, 3, segmentIDs, segmentIDs + 1, n - 1} {
		require.True(t, found(i), "id %d", i)
	}
	guesses := 0
	for i := uint64(10 * n); i < 10*n+1000; i++ {
		require.False(t, x.find(testHash(i), func(dedupPlace) bool { guesses++; return false }))
	}
	require.Less(t, guesses, 5, "wrong places among 1000 unknown ids")

	for i := uint64(0); i < n; i += together {
		if at(i).window == 1 {
			x.remove(dedupRemoved{at(i), together})
		}
	}
	require.Len(t, x.segments, 2, "the first window's is empty")
	require.True(t, found(together), "those of the other window are there")
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
				var entries []pubsub.Entry
				for range rapid.SampledFrom([]int{1, 3, 3 * dedupBlockIDs}).Draw(rt, "entries") {
					entries = append(entries, pubsub.Entry{
						Event:       pubsub.Event{PublishTime: now},
						DedupKey:    []byte{rapid.Byte().Draw(rt, "id")},
						DedupWindow: time.Duration(rapid.SampledFrom([]int{1, 3}).Draw(rt, "minutes")) * time.Minute,
					})
				}
				results, err := e.Append(rt.Context(), "t", entries, pubsub.AppendOptions{}, now)
				require.NoError(rt, err)
				for i := range entries {
					id := entries[i].DedupKey[0]
					require.Equal(rt, now.Before(until[id]), results[i].Duplicate)
					if !results[i].Duplicate {
						until[id] = now.Add(entries[i].DedupWindow)
					}
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
		open, stored := 0, 0
		for _, end := range until {
			if now.Before(end) {
				open++
			}
		}
		require.NoError(rt, e.read(func(b *buckets) error {
			return b.ids().ForEach(func(_, ids []byte) error {
				for range eachDedupID(ids) {
					stored++
				}
				return nil
			})
		}))
		require.Equal(rt, open, stored)
	})
}
