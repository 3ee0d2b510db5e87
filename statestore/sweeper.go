package statestore

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// What one commit removes bounds the time for which a sweep can hold up other writers. Each of its keys may lie on a page
// of its own.
const (
	sweepStep = 32
	// A sweep that goes on for sweepPatience, because keys expire as fast as it removes them, takes steps twice as large from
	// then on, up to maxSweepStep.
	sweepPatience = 5 * time.Minute
	maxSweepStep  = 1024
)

// sweeper removes what has expired, every interval, until it is closed.
type sweeper struct {
	engine Engine
	clock  clockwork.Clock
	log    *slog.Logger

	mu       sync.Mutex
	interval time.Duration // 0: nobody asked

	changed chan struct{}
	cancel  context.CancelFunc
	stopped chan struct{}
}

func startSweeper(engine Engine, opts Options) *sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sweeper{
		engine:   engine,
		clock:    opts.Clock,
		log:      opts.Logger,
		interval: opts.CleanupInterval,
		changed:  make(chan struct{}, 1),
		cancel:   cancel,
		stopped:  make(chan struct{}),
	}
	go s.run(ctx)
	return s
}

func checkCleanupInterval(interval time.Duration) error {
	if interval < MinCleanupInterval {
		return &ArgumentError{Field: "cleanupInterval", Value: interval.String(),
			Allowed: fmt.Sprintf("at least %s", MinCleanupInterval)}
	}
	return nil
}

func (s *sweeper) ask(interval time.Duration) {
	s.mu.Lock()
	shorter := s.interval == 0 || interval < s.interval
	if shorter {
		s.interval = interval
	}
	s.mu.Unlock()
	if shorter {
		select {
		case s.changed <- struct{}{}:
		default: // the run loop has yet to see an earlier change, and will see this one with it
		}
	}
}

func (s *sweeper) asked() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interval == 0 {
		return DefaultCleanupInterval
	}
	return s.interval
}

func (s *sweeper) close(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the sweeper: %w", ctx.Err())
	}
}

func (s *sweeper) run(ctx context.Context) {
	defer close(s.stopped)
	for {
		timer := s.clock.NewTimer(s.asked())
		select {
		case <-timer.Chan():
			s.sweep(ctx)
		case <-s.changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// sweep goes on in steps until nothing that has expired is left. A sweep of many steps is told of: it is what writers share
// the disk with.
func (s *sweeper) sweep(ctx context.Context) {
	began, total, step := s.clock.Now(), 0, sweepStep
	larger := began.Add(sweepPatience)
	for more := true; more && ctx.Err() == nil; {
		now := s.clock.Now()
		if now.After(larger) {
			step, larger = min(2*step, maxSweepStep), now.Add(sweepPatience)
		}
		var swept int
		var err error
		swept, more, err = s.engine.Sweep(ctx, now, step)
		if err != nil && ctx.Err() == nil {
			s.log.Error("could not remove all of the state that has expired", "error", err)
		}
		total += swept
	}
	if total > sweepStep {
		s.log.Info("removed expired state", "records", total, "took", s.clock.Since(began).String())
	}
}
