package pubsub_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

const (
	benchClients = 64
	benchData    = 1 << 10
)

// startBroker is a broker on a file, with the real clock.
func startBroker(t testing.TB) *pubsub.Broker {
	db, err := boltdb.Open(context.Background(), filepath.Join(t.TempDir(), "test.db"), boltdb.Options{})
	require.NoError(t, err)
	engine, err := boltengine.New(context.Background(), db, "pubsub")
	require.NoError(t, err)
	broker, err := pubsub.NewBroker(context.Background(), engine, pubsub.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, broker.Close(context.Background()))
		require.NoError(t, db.Close())
	})
	return broker
}

// publishAll publishes n 1 KiB events from 64 clients.
func publishAll(b *testing.B, broker *pubsub.Broker) {
	b.Helper()
	var n atomic.Int64
	data := make([]byte, benchData)
	b.SetParallelism((benchClients + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := pubsub.Message{EventID: strconv.FormatInt(n.Add(1), 10), Data: data}
			if err := broker.Publish(b.Context(), "t", []pubsub.Message{m}, byID)[0]; err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkPublish publishes 1 KiB events with ids from 64 clients; every one is synced.
func BenchmarkPublish(b *testing.B) {
	broker := startBroker(b)
	b.ReportAllocs()
	publishAll(b, broker)
}

// BenchmarkPublishDeliverAck does so while one stream takes and acknowledges them, until it has all.
func BenchmarkPublishDeliverAck(b *testing.B) {
	broker := startBroker(b)
	stream, err := broker.Subscribe(b.Context(), pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxAckPending: benchClients})
	require.NoError(b, err)
	b.ReportAllocs()
	b.ResetTimer()
	took := make(chan error, 1)
	go func() { took <- takeAndAck(b.Context(), stream, b.N) }()
	publishAll(b, broker)
	require.NoError(b, <-took)
}

func takeAndAck(ctx context.Context, stream pubsub.Subscription, n int) error {
	for range n {
		d, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		d.Ack()
	}
	return nil
}
