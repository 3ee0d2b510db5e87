package pubsub_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

// slowSweep is an engine whose sweeping takes steps and time.
type slowSweep struct {
	pubsub.Engine
	clock *clockwork.FakeClock
	// took is what a step takes, and steps how many there are to do.
	took time.Duration

	mu       sync.Mutex
	steps    int
	limits   []int
	promoted []int // how many steps came before each promotion that moved something
	swept    chan struct{}
}

func (e *slowSweep) Sweep(_ context.Context, _ time.Time, limit int) (bool, error) {
	e.clock.Advance(e.took)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limits = append(e.limits, limit)
	more := len(e.limits) < e.steps
	if len(e.limits) == e.steps {
		close(e.swept)
	}
	return more, nil
}

func (e *slowSweep) Promote(ctx context.Context, now time.Time, limit int) ([]string, time.Time, error) {
	topics, next, err := e.Engine.Promote(ctx, now, limit)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(topics) > 0 {
		e.promoted = append(e.promoted, len(e.limits))
	}
	return topics, next, err
}

// sweep runs a broker through so many steps of that length.
func sweep(t *testing.T, steps int, took time.Duration, before func(b *pubsub.Broker, clock clockwork.Clock)) *slowSweep {
	db, err := boltdb.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), boltdb.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	engine, err := boltengine.New(t.Context(), db, "pubsub")
	require.NoError(t, err)
	clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	slow := &slowSweep{Engine: engine, clock: clock, took: took, steps: steps, swept: make(chan struct{})}
	b, err := pubsub.NewBroker(t.Context(), slow, pubsub.Options{Clock: clock, Logger: slog.New(slog.DiscardHandler), SweepInterval: time.Hour})
	require.NoError(t, err)
	before(b, clock)
	require.NoError(t, clock.BlockUntilContext(t.Context(), 1))
	clock.Advance(time.Hour)
	<-slow.swept
	require.NoError(t, b.Close(context.Background()))
	return slow
}

func TestADelayedEventThatFallsDueDuringASweepDoesNotWaitForItsEnd(t *testing.T) {
	slow := sweep(t, 10, time.Second, func(b *pubsub.Broker, clock clockwork.Clock) {
		later := pubsub.Message{Data: []byte("later"), DeliverAt: clock.Now().Add(time.Hour + 3*time.Second)}
		require.NoError(t, b.Publish(t.Context(), "t", []pubsub.Message{later}, pubsub.PublishOptions{})[0])
	})
	require.Equal(t, []int{3}, slow.promoted, "right after the step during which it fell due")
}

func TestStepsOfASweepAdaptToWhatTheyTake(t *testing.T) {
	nothing := func(*pubsub.Broker, clockwork.Clock) {}
	slow := sweep(t, 8, time.Second, nothing).limits
	require.Equal(t, []int{512, 256, 128, 64, 32, 16, 16, 16}, slow)
	quick := sweep(t, 6, time.Millisecond, nothing).limits
	require.Equal(t, []int{512, 1024, 2048, 4096, 8192, 8192}, quick)
}
