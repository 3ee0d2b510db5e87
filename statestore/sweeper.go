package statestore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
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

// sweeper removes what has expired, every interval.
type sweeper struct {
	*worker
	engine Engine
	log    *slog.Logger

	mu       sync.Mutex
	interval time.Duration // 0: nobody asked
}

func startSweeper(engine Engine, opts Options) *sweeper {
	s := &sweeper{engine: engine, log: opts.Logger, interval: opts.CleanupInterval}
	s.worker = newWorker(opts.Clock, func(ctx context.Context, due bool) time.Duration {
		if due {
			s.sweep(ctx)
		}
		return s.asked()
	})
	s.wake()
	return s
}

func checkCleanupInterval(interval time.Duration) error {
	if interval < MinCleanupInterval {
		return &invalid.Error{Field: "cleanupInterval", Value: interval.String(),
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
		s.wake()
	}
}

func (s *sweeper) asked() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.interval, DefaultCleanupInterval)
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
