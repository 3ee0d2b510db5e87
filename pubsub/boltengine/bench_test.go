package boltengine

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	benchClients = 64
	benchData    = 1 << 10
	benchWindow  = 10 * time.Minute
)

func benchEntry(i int64) pubsub.Entry {
	return pubsub.Entry{
		Event:       pubsub.Event{Data: make([]byte, benchData), PublishTime: noon},
		DedupKey:    fmt.Append(nil, i),
		DedupWindow: benchWindow,
	}
}

// BenchmarkAppend stores 1 KiB events with ids from 64 clients; every one is synced.
func BenchmarkAppend(b *testing.B) {
	e, _ := open(b)
	var n atomic.Int64
	b.SetParallelism((benchClients + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.Append(b.Context(), "t", []pubsub.Entry{benchEntry(n.Add(1))}, pubsub.AppendOptions{}, noon); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkReadAndSettle reads 1 KiB events and settles them, 64 at a time as a queue does.
func BenchmarkReadAndSettle(b *testing.B) {
	const step = 64
	e, _ := open(b)
	_, err := e.OpenGroup(b.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(b, err)
	for i := 0; i < b.N; i += 1000 {
		var list []pubsub.Entry
		for j := i; j < min(i+1000, b.N); j++ {
			list = append(list, benchEntry(int64(j)))
		}
		_, err := e.Append(b.Context(), "t", list, pubsub.AppendOptions{}, noon)
		require.NoError(b, err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		events, _, err := e.ReadLog(b.Context(), "t", "g", uint64(done), step, 1<<20)
		require.NoError(b, err)
		_, err = e.Settle(b.Context(), "t", "g", settledAll(events))
		require.NoError(b, err)
		done += len(events)
	}
}

func settledAll(events []pubsub.Event) []pubsub.Settlement {
	list := make([]pubsub.Settlement, len(events))
	for i := range events {
		list[i] = pubsub.Settlement{Outcome: pubsub.Acked, Sequence: events[i].Sequence}
	}
	return list
}
