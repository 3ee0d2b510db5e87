package statestore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// worker is a goroutine that works in the background until it is closed.
type worker struct {
	clock clockwork.Clock
	// work is called when the time that it returned is over (due), and whenever it was woken before.
	work func(ctx context.Context, due bool) (rest time.Duration)

	ctx     context.Context
	cancel  context.CancelFunc
	once    sync.Once // starts the goroutine
	woken   chan struct{}
	stopped chan struct{}
}

func newWorker(clock clockwork.Clock, work func(ctx context.Context, due bool) (rest time.Duration)) *worker {
	w := &worker{clock: clock, work: work, woken: make(chan struct{}, 1), stopped: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// wake starts the worker, or makes it work again soon.
func (w *worker) wake() {
	select {
	case w.woken <- struct{}{}:
	default: // it has yet to see an earlier call, and will see this one with it
	}
	w.once.Do(func() { go w.run() })
}

func (w *worker) run() {
	defer close(w.stopped)
	<-w.woken
	for due := false; w.ctx.Err() == nil; {
		timer := w.clock.NewTimer(w.work(w.ctx, due))
		select {
		case <-timer.Chan():
			due = true
		case <-w.woken:
			due = false
		case <-w.ctx.Done():
		}
		timer.Stop()
	}
}

// close stops the worker and waits for it, at most until ctx ends. A worker that was never woken never starts.
func (w *worker) close(ctx context.Context, name string) error {
	w.cancel()
	w.once.Do(func() { close(w.stopped) })
	select {
	case <-w.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the %s: %w", name, ctx.Err())
	}
}
