package statestore_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// sweepEngine answers sweeps from the test.
type sweepEngine struct {
	statestore.Engine
	calls   chan int // limits
	answers chan sweepAnswer
}

type sweepAnswer struct {
	swept int
	more  bool
	err   error
}

func (e *sweepEngine) Sweep(ctx context.Context, _ time.Time, limit int) (int, bool, error) {
	select {
	case e.calls <- limit:
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
	select {
	case a := <-e.answers:
		return a.swept, a.more, a.err
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
}

// tapClock tells the test of each timer that is armed.
type tapClock struct {
	*clockwork.FakeClock
	armed chan time.Duration
}

func newTapClock() *tapClock {
	return &tapClock{FakeClock: clockwork.NewFakeClockAt(epoch), armed: make(chan time.Duration, 16)}
}

func (c *tapClock) NewTimer(d time.Duration) clockwork.Timer {
	timer := c.FakeClock.NewTimer(d)
	c.armed <- d
	return timer
}

func newSweepStore(t *testing.T, opts statestore.Options) (*statestore.Store, *sweepEngine, *tapClock) {
	clock := newTapClock()
	engine := &sweepEngine{calls: make(chan int), answers: make(chan sweepAnswer)}
	opts.Clock = clock
	s, err := statestore.New(engine, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(ctx)) })
	require.Equal(t, statestore.DefaultCleanupInterval, <-clock.armed)
	return s, engine, clock
}

func TestSweeperGoesOnUntilNothingIsLeft(t *testing.T) {
	var log bytes.Buffer
	_, engine, clock := newSweepStore(t, statestore.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 {
		clock.Advance(statestore.DefaultCleanupInterval)
		limit := <-engine.calls
		require.LessOrEqual(t, limit, 1000, "small steps")
		engine.answers <- sweepAnswer{limit, true, nil}
		<-engine.calls
		engine.answers <- sweepAnswer{1, true, errors.New("a stain")}
		<-engine.calls
		engine.answers <- sweepAnswer{limit, false, nil}
		require.Equal(t, statestore.DefaultCleanupInterval, <-clock.armed)
		require.Contains(t, log.String(), "a stain")
	}
}

func TestASweepThatCannotKeepUpTakesLargerSteps(t *testing.T) {
	var log bytes.Buffer
	_, engine, clock := newSweepStore(t, statestore.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 {
		clock.Advance(statestore.DefaultCleanupInterval)
		first := <-engine.calls
		engine.answers <- sweepAnswer{first, true, nil}
		require.Equal(t, first, <-engine.calls, "there is time yet")
		limit := first
		for range 10 {
			clock.Advance(6 * time.Minute)
			engine.answers <- sweepAnswer{limit, true, nil}
			before := limit
			limit = <-engine.calls
			require.Equal(t, min(2*before, 1024), limit)
		}
		engine.answers <- sweepAnswer{}
		require.Equal(t, statestore.DefaultCleanupInterval, <-clock.armed)
	}
	require.Contains(t, log.String(), "removed expired state")
	require.Contains(t, log.String(), "took=1h0m0s")
}

func TestShortestCleanupIntervalHolds(t *testing.T) {
	s, engine, clock := newSweepStore(t, statestore.Options{})
	sweeps := func(interval time.Duration) {
		clock.Advance(interval)
		<-engine.calls
		engine.answers <- sweepAnswer{}
		require.Equal(t, interval, <-clock.armed)
	}
	// The default yields to the first who asks.
	require.NoError(t, s.SetCleanupInterval(5*time.Minute))
	require.Equal(t, 5*time.Minute, <-clock.armed)
	sweeps(5 * time.Minute)
	require.NoError(t, s.SetCleanupInterval(time.Hour))
	sweeps(5 * time.Minute)
	require.NoError(t, s.SetCleanupInterval(time.Second))
	require.Equal(t, time.Second, <-clock.armed)
	sweeps(time.Second)

	for _, bad := range []time.Duration{0, -time.Second, statestore.MinCleanupInterval - 1} {
		err := s.SetCleanupInterval(bad)
		require.ErrorIs(t, err, statestore.ErrInvalidArgument)
		require.ErrorContains(t, err, "cleanupInterval "+bad.String())
	}
	_, err := statestore.New(engine, statestore.Options{CleanupInterval: -1})
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
}

// lingeringEngine sweeps until its context ends, and then has something left to do.
type lingeringEngine struct {
	statestore.Engine
	entered chan struct{}
	left    bool
}

func (e *lingeringEngine) Sweep(ctx context.Context, _ time.Time, _ int) (int, bool, error) {
	close(e.entered)
	<-ctx.Done()
	runtime.Gosched()
	e.left = true
	return 0, false, ctx.Err()
}

func TestCloseEndsTheSweepUnderWayAndWaits(t *testing.T) {
	engine := &lingeringEngine{entered: make(chan struct{})}
	clock := newTapClock()
	s, err := statestore.New(engine, statestore.Options{Clock: clock})
	require.NoError(t, err)
	<-clock.armed
	clock.Advance(statestore.DefaultCleanupInterval)
	<-engine.entered
	require.NoError(t, s.Close(ctx))
	require.True(t, engine.left)
}

func TestCloseWaitsNoLongerThanItsContext(t *testing.T) {
	engine := stubbornEngine{entered: make(chan struct{}), leave: make(chan struct{})}
	clock := newTapClock()
	s, err := statestore.New(engine, statestore.Options{Clock: clock})
	require.NoError(t, err)
	<-clock.armed
	clock.Advance(statestore.DefaultCleanupInterval)
	<-engine.entered
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, s.Close(ended), context.Canceled)
	close(engine.leave)
	require.NoError(t, s.Close(ctx))
}

// stubbornEngine sweeps until it is told to leave, whatever its context says.
type stubbornEngine struct {
	statestore.Engine
	entered, leave chan struct{}
}

func (e stubbornEngine) Sweep(context.Context, time.Time, int) (int, bool, error) {
	close(e.entered)
	<-e.leave
	return 0, false, nil
}
