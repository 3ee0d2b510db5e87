package pubsub_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// busyEngine has more to sweep than it does in one step, and can be held in the middle of it. It watches that what is due
// is promoted between any two steps.
type busyEngine struct {
	pubsub.Engine
	clock *clockwork.FakeClock
	// faults may keep an event from being promoted.
	faults *faultyEngine
	// running is closed when the broker does its maintenance: from then on a sweep comes with every interval.
	running chan struct{}
	run     sync.Once

	mu sync.Mutex
	// release is closed to let a held step go on; nil: none is to be held. held hears of the step.
	release, held chan struct{}
	// more is how many further steps find work, whatever there is.
	more int
	// swept is when the last step ended; overtaken, what it says of a due event.
	swept     time.Time
	overtaken string
}

// hold has the next step wait, and so many find more to do. The caller must close release.
func (e *busyEngine) hold(more int) (held, release chan struct{}) {
	held, release = make(chan struct{}), make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held, e.release, e.more = held, release, more
	return held, release
}

func (e *busyEngine) late() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.overtaken
}

func (e *busyEngine) Promote(ctx context.Context, now time.Time, limit int) ([]string, time.Time, error) {
	e.run.Do(func() { close(e.running) })
	return e.Engine.Promote(ctx, now, limit)
}

func (e *busyEngine) Sweep(ctx context.Context, now time.Time, _ int) (bool, error) {
	return e.step(ctx, func() (bool, error) { return e.Engine.Sweep(ctx, now, 1) })
}

func (e *busyEngine) BuryAged(ctx context.Context, now time.Time, _ int, lock func(topic, group string) bool) (buried []pubsub.AgedEvent, more bool, err error) {
	more, err = e.step(ctx, func() (more bool, err error) {
		buried, more, err = e.Engine.BuryAged(ctx, now, 1, lock)
		return more, err
	})
	return buried, more, err
}

func (e *busyEngine) step(ctx context.Context, do func() (bool, error)) (more bool, err error) {
	e.mu.Lock()
	swept, held, release := e.swept, e.held, e.release
	e.held = nil
	e.mu.Unlock()
	// No event is promoted by that: it says when the first is due.
	_, due, err := e.Engine.Promote(ctx, swept, 0)
	if err != nil {
		return false, err
	}
	if held != nil {
		close(held)
		select {
		case <-release:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	more, err = do()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !due.IsZero() && !due.After(swept) && !e.faults.pending("Promote", "") {
		e.overtaken = fmt.Sprintf("a step of the sweep came before the event that was due at %s", due)
	}
	if e.more > 0 {
		e.more, more = e.more-1, true
	}
	e.swept = e.clock.Now()
	return more, err
}

// stepDuringSweep has delayed events come due while a sweep has much to do.
func (m *machine) stepDuringSweep() {
	m.faults.disarm()
	m.eventually(func() bool {
		select {
		case <-m.engine.running:
			return true
		default:
			return false
		}
	}, "maintenance begins")
	held, release := m.engine.hold(rapid.IntRange(1, 5).Draw(m.t, "more"))
	m.b.clock.Advance(modelSweepInterval)
	<-held
	m.b.clock.Advance(time.Duration(rapid.IntRange(1, 30).Draw(m.t, "seconds")) * time.Second)
	close(release)
	m.promote()
}
