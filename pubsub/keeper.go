package pubsub

import (
	"context"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// stepSize bounds one step of the engine, so that publishers never wait long behind it. It adapts to what steps take.
type stepSize int

const (
	minStep, firstStep, maxStep stepSize = 16, 512, 8192
	// stepTarget is what a step should take.
	stepTarget = 20 * time.Millisecond
)

func (s *stepSize) adapt(took time.Duration) {
	switch {
	case took > 2*stepTarget:
		*s = max(*s/2, minStep)
	case took < stepTarget/2:
		*s = min(*s*2, maxStep)
	}
}

// keeper does a broker's work that nobody asks for: it moves delayed events into their topics when they are due, and
// cleans away what has ended.
type keeper struct {
	broker *Broker
	sweep  time.Duration
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
	// Both belong to run.
	promoteStep, sweepStep stepSize

	mu  sync.Mutex
	due time.Time // of the earliest delayed event; zero: none is known
}

func startKeeper(b *Broker, sweep time.Duration) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{broker: b, sweep: sweep, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), promoteStep: firstStep, sweepStep: firstStep}
	k.due = b.clock.Now()
	go k.run(ctx)
	return k
}

func (k *keeper) stop() {
	k.cancel()
	<-k.done
}

// delayedUntil tells of a delayed event.
func (k *keeper) delayedUntil(t time.Time) {
	k.mu.Lock()
	earlier := k.due.IsZero() || t.Before(k.due)
	if earlier {
		k.due = t
	}
	k.mu.Unlock()
	if earlier {
		signal(k.wake)
	}
}

func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	clock := k.broker.clock
	nextSweep := clock.Now().Add(k.sweep)
	for {
		k.promote(ctx)
		now := clock.Now()
		if !now.Before(nextSweep) {
			k.clean(ctx)
			nextSweep = now.Add(k.sweep)
		}

		k.mu.Lock()
		next := earliest(nextSweep, k.due)
		k.mu.Unlock()
		due, cancelTimer := alarm(clock, next)
		select {
		case <-due:
		case <-k.wake:
		case <-ctx.Done():
			cancelTimer()
			return
		}
		cancelTimer()
	}
}

func (k *keeper) promote(ctx context.Context) {
	clock := k.broker.clock
	for ctx.Err() == nil {
		now := clock.Now()
		k.mu.Lock()
		due := k.due
		if due.IsZero() || due.After(now) {
			k.mu.Unlock()
			return
		}
		k.due = time.Time{}
		k.mu.Unlock()

		topics, next, err := k.broker.engine.Promote(ctx, now, int(k.promoteStep))
		k.promoteStep.adapt(clock.Since(now))
		if err != nil {
			if ctx.Err() == nil {
				k.broker.log.Error("delayed events could not be moved into their topics", "error", err)
			}
			next = now.Add(enginePause)
		}
		for _, t := range topics {
			k.broker.grown(t, 0)
		}
		k.mu.Lock()
		k.due = earliest(k.due, next)
		k.mu.Unlock()
	}
}

// clean sweeps in steps. Delayed events that fall due meanwhile do not wait for the last of them.
func (k *keeper) clean(ctx context.Context) {
	clock := k.broker.clock
	for ctx.Err() == nil {
		now := clock.Now()
		claimed := claims{broker: k.broker}
		more, err := k.broker.engine.Sweep(ctx, now, int(k.sweepStep), claimed.claim)
		claimed.release()
		k.sweepStep.adapt(clock.Since(now))
		if err != nil && ctx.Err() == nil {
			k.broker.log.Error("what has ended could not be cleaned away", "error", err)
		}
		if err != nil || !more {
			return
		}
		k.promote(ctx)
	}
}

// alarm fires at a time, or never if that is zero. A clock that was set forward while the timer was made does not make
// it late.
func alarm(clock clockwork.Clock, at time.Time) (fired <-chan time.Time, cancel func()) {
	if at.IsZero() {
		return nil, func() {}
	}
	timer := clock.NewTimer(at.Sub(clock.Now()))
	if clock.Now().Before(at) {
		return timer.Chan(), func() { timer.Stop() }
	}
	timer.Stop()
	now := make(chan time.Time, 1)
	now <- at
	return now, func() {}
}

// earliest returns the earlier of two times of which zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// signal wakes whoever listens on a channel of capacity one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
