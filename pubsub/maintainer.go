package pubsub

import (
	"context"
	"time"

	"github.com/jonboulle/clockwork"
)

// stepSize bounds one step of a task, so that publishers never wait long behind it. It adapts to what steps take.
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

// maintainer does a broker's work that nobody asks for. It has three tasks, which it takes in bounded steps: promote delayed
// events when they are due, sweep dedup keys whose window has ended, and bury aged events. What is due is promoted between
// any two steps of the others.
type maintainer struct {
	broker   *Broker
	interval time.Duration
	wake     chan struct{}
	cancel   context.CancelFunc
	done     chan struct{}
	// They belong to run.
	promoteStep, sweepStep, buryStep stepSize
	// due is that of the earliest delayed event; zero: none is known. The broker's lock guards it.
	due time.Time
}

func startMaintainer(b *Broker, interval time.Duration) *maintainer {
	ctx, cancel := context.WithCancel(context.Background())
	m := &maintainer{
		broker:      b,
		interval:    interval,
		wake:        make(chan struct{}, 1),
		cancel:      cancel,
		done:        make(chan struct{}),
		promoteStep: firstStep,
		sweepStep:   firstStep,
		buryStep:    firstStep,
		due:         b.clock.Now(),
	}
	go m.run(ctx)
	return m
}

func (m *maintainer) stop() {
	m.cancel()
	<-m.done
}

// notifyDelayed tells of an event that is due at t. It is called with the broker's lock held.
func (m *maintainer) notifyDelayed(t time.Time) {
	if m.due.IsZero() || t.Before(m.due) {
		m.due = t
		signal(m.wake)
	}
}

func (m *maintainer) run(ctx context.Context) {
	defer close(m.done)
	b := m.broker
	nextSweep := b.clock.Now().Add(m.interval)
	for {
		m.promote(ctx)
		now := b.clock.Now()
		if !now.Before(nextSweep) {
			for m.sweep(ctx) {
				m.promote(ctx)
			}
			m.promote(ctx)
			for m.buryAged(ctx) {
				m.promote(ctx)
			}
			nextSweep = now.Add(m.interval)
		}

		b.mu.Lock()
		next := earliest(nextSweep, m.due)
		b.mu.Unlock()
		due, cancelTimer := alarm(b.clock, next)
		select {
		case <-due:
		case <-m.wake:
		case <-ctx.Done():
			cancelTimer()
			return
		}
		cancelTimer()
	}
}

// promote moves delayed events into their topics that are due.
func (m *maintainer) promote(ctx context.Context) {
	b := m.broker
	for ctx.Err() == nil {
		now := b.clock.Now()
		b.mu.Lock()
		isDue := !m.due.IsZero() && !m.due.After(now)
		if isDue {
			m.due = time.Time{}
		}
		b.mu.Unlock()
		if !isDue {
			return
		}

		topics, next, err := b.engine.Promote(ctx, now, int(m.promoteStep))
		m.promoteStep.adapt(b.clock.Since(now))
		if err != nil {
			if ctx.Err() == nil {
				b.log.Error("delayed events could not be moved into their topics", "error", err)
			}
			next = now.Add(enginePause)
		}
		b.mu.Lock()
		for _, t := range topics {
			b.notifyAppended(t, endUnknown, TopicCounts{})
		}
		m.due = earliest(m.due, next)
		b.mu.Unlock()
	}
}

// sweep forgets dedup keys whose window has ended. It reports whether there is work for another step.
func (m *maintainer) sweep(ctx context.Context) (more bool) {
	now := m.broker.clock.Now()
	more, err := m.broker.engine.Sweep(ctx, now, int(m.sweepStep))
	m.sweepStep.adapt(m.broker.clock.Since(now))
	return m.goesOn(ctx, more, err)
}

// buryAged makes dead letters of events that are older than their topic keeps them. Retries are the engine's to change
// while their group's lock is held. It reports whether there is work for another step.
func (m *maintainer) buryAged(ctx context.Context) (more bool) {
	b := m.broker
	now := b.clock.Now()
	locked := map[groupName]bool{}
	buried, more, err := b.engine.BuryAged(ctx, now, int(m.buryStep), func(topic, group string) bool {
		name := groupName{topic, group}
		if !locked[name] {
			locked[name] = b.tryLockGroup(name)
		}
		return locked[name]
	})
	m.buryStep.adapt(b.clock.Since(now))
	if err != nil {
		buried = nil
	}
	b.mu.Lock()
	for _, d := range buried {
		b.counts(groupName{d.Topic, d.Group}).DeadLettered[ReasonMaxAge]++
		if g := b.groups[d.Topic][d.Group]; g != nil {
			g.notifyBuried()
		}
	}
	b.mu.Unlock()
	for name, is := range locked {
		if is {
			b.unlockGroup(name)
		}
	}
	return m.goesOn(ctx, more, err)
}

func (m *maintainer) goesOn(ctx context.Context, more bool, err error) bool {
	if err != nil && ctx.Err() == nil {
		m.broker.log.Error("what has ended could not be cleaned away", "error", err)
	}
	return more && err == nil && ctx.Err() == nil
}

// alarm fires at a time, or never if that is zero.
func alarm(clock clockwork.Clock, at time.Time) (fired <-chan time.Time, cancel func()) {
	if at.IsZero() {
		return nil, func() {}
	}
	timer := timerAt(clock, at, clock.NewTimer)
	return timer.Chan(), func() { timer.Stop() }
}

// timerAt has start make a timer that ends at a time.
func timerAt(clock clockwork.Clock, at time.Time, start func(time.Duration) clockwork.Timer) clockwork.Timer {
	for {
		now := clock.Now()
		timer := start(at.Sub(now))
		// Set forward in between, the clock would make the timer late by that.
		if clock.Since(now) < time.Millisecond || !timer.Stop() {
			return timer
		}
	}
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
