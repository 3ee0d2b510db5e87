package pubsub

import (
	"context"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// keeperStep bounds one step of cleaning or of moving delayed events, so that publishers never wait long behind it.
const keeperStep = 512

// keeper does a broker's work that nobody asks for: it moves delayed events into their topics when they are due, and
// cleans away what has ended.
type keeper struct {
	broker *Broker
	sweep  time.Duration
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	due time.Time // of the earliest delayed event; zero: none is known
}

func startKeeper(b *Broker, sweep time.Duration) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{broker: b, sweep: sweep, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
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
		now := clock.Now()
		k.promote(ctx, now)
		if !now.Before(nextSweep) {
			k.clean(ctx, now)
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

func (k *keeper) promote(ctx context.Context, now time.Time) {
	for ctx.Err() == nil {
		k.mu.Lock()
		due := k.due
		if due.IsZero() || due.After(now) {
			k.mu.Unlock()
			return
		}
		k.due = time.Time{}
		k.mu.Unlock()

		topics, next, err := k.broker.engine.Promote(ctx, now, keeperStep)
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

func (k *keeper) clean(ctx context.Context, now time.Time) {
	for ctx.Err() == nil {
		claimed := claims{broker: k.broker}
		more, err := k.broker.engine.Sweep(ctx, now, keeperStep, claimed.claim)
		claimed.release()
		if err != nil && ctx.Err() == nil {
			k.broker.log.Error("what has ended could not be cleaned away", "error", err)
		}
		if err != nil || !more {
			return
		}
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
