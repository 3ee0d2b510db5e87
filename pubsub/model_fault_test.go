package pubsub_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// faultyCalls are the calls of an engine that a broker makes for itself, and has to make again if they fail; and Subscribe,
// the OpenGroup that is made for a caller, who has to.
var faultyCalls = []string{"Subscribe", "OpenGroup", "Retrying", "ReadLog", "ReadRetries", "ReadRedriven", "Promote", "Sweep", "BuryAged"}

var errFault = errors.New("the disk has failed once")

// faultyEngine fails calls once, which then have done nothing.
type faultyEngine struct {
	pubsub.Engine

	mu sync.Mutex
	// armed are calls that will fail, of any group if none is named; failed, those that have and were not made again with
	// success.
	armed, failed map[faultyCall]bool
}

type faultyCall struct{ call, group string }

func newFaultyEngine(e pubsub.Engine) *faultyEngine {
	return &faultyEngine{Engine: e, armed: map[faultyCall]bool{}, failed: map[faultyCall]bool{}}
}

func (e *faultyEngine) arm(call, group string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.armed[faultyCall{call, group}] = true
}

func (e *faultyEngine) disarm() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.armed)
}

// pending reports whether a call will fail, or is still to be made again.
func (e *faultyEngine) pending(call, group string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.armed[faultyCall{call, group}] || e.failed[faultyCall{call, group}]
}

// recovering reports whether a call has failed and was not made again.
func (e *faultyEngine) recovering() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.failed) > 0
}

func (e *faultyEngine) attempt(call, group string, do func() error) error {
	this := faultyCall{call, group}
	e.mu.Lock()
	for _, armed := range []faultyCall{this, {call: call}} {
		if e.armed[armed] {
			delete(e.armed, armed)
			e.failed[this] = true
			e.mu.Unlock()
			return errFault
		}
	}
	e.mu.Unlock()
	err := do()
	if err == nil {
		e.mu.Lock()
		delete(e.failed, this)
		e.mu.Unlock()
	}
	return err
}

func (e *faultyEngine) OpenGroup(ctx context.Context, topic, group string, policy pubsub.DeliverPolicy, limits pubsub.NameLimits) (done uint64, err error) {
	call := "OpenGroup"
	if ctx.Done() == nil {
		call = "Subscribe"
	}
	err = e.attempt(call, group, func() (err error) { done, err = e.Engine.OpenGroup(ctx, topic, group, policy, limits); return err })
	return done, err
}

func (e *faultyEngine) Retrying(ctx context.Context, topic, group string) (total int, byKey map[string]int, err error) {
	err = e.attempt("Retrying", group, func() (err error) { total, byKey, err = e.Engine.Retrying(ctx, topic, group); return err })
	return total, byKey, err
}

func (e *faultyEngine) ReadLog(ctx context.Context, topic, group string, after uint64, limit, maxBytes int) (events []pubsub.Event, upTo uint64, err error) {
	err = e.attempt("ReadLog", group, func() (err error) {
		events, upTo, err = e.Engine.ReadLog(ctx, topic, group, after, limit, maxBytes)
		return err
	})
	return events, upTo, err
}

func (e *faultyEngine) ReadRetries(ctx context.Context, topic, group string, now time.Time, skip func(pubsub.RetryKey) bool, limit, maxBytes int) (due []pubsub.Retry, next time.Time, err error) {
	err = e.attempt("ReadRetries", group, func() (err error) {
		due, next, err = e.Engine.ReadRetries(ctx, topic, group, now, skip, limit, maxBytes)
		return err
	})
	return due, next, err
}

func (e *faultyEngine) ReadRedriven(ctx context.Context, topic, group string, skip func(pubsub.RetryKey) bool, limit, maxBytes int) (redriven []pubsub.Retry, err error) {
	err = e.attempt("ReadRedriven", group, func() (err error) {
		redriven, err = e.Engine.ReadRedriven(ctx, topic, group, skip, limit, maxBytes)
		return err
	})
	return redriven, err
}

func (e *faultyEngine) Settle(ctx context.Context, topic, group string, settlements []pubsub.Settlement) (gone []int, err error) {
	err = e.attempt("Settle", group, func() (err error) { gone, err = e.Engine.Settle(ctx, topic, group, settlements); return err })
	return gone, err
}

func (e *faultyEngine) Promote(ctx context.Context, now time.Time, limit int) (topics []string, next time.Time, err error) {
	err = e.attempt("Promote", "", func() (err error) { topics, next, err = e.Engine.Promote(ctx, now, limit); return err })
	return topics, next, err
}

func (e *faultyEngine) Sweep(ctx context.Context, now time.Time, limit int) (more bool, err error) {
	err = e.attempt("Sweep", "", func() (err error) { more, err = e.Engine.Sweep(ctx, now, limit); return err })
	return more, err
}

func (e *faultyEngine) BuryAged(ctx context.Context, now time.Time, limit int, lock func(topic, group string) bool) (buried []pubsub.AgedEvent, more bool, err error) {
	err = e.attempt("BuryAged", "", func() (err error) { buried, more, err = e.Engine.BuryAged(ctx, now, limit, lock); return err })
	return buried, more, err
}

// fault has a call fail, some day.
func (m *machine) fault() {
	m.faults.arm(rapid.SampledFrom(faultyCalls).Draw(m.t, "call"), "")
}

// faultOfSettle has the broker fail to write down what became of a delivery. It waits until that is made good: what is not
// written when a stream ends is delivered again.
func (m *machine) faultOfSettle() {
	s, d, e := m.pick()
	if d == nil {
		return
	}
	m.faults.arm("Settle", s.group.name)
	rapid.SampledFrom([]func(*modelStream, *pubsub.Delivery, *modelEvent){m.acks, m.nacks, m.buries}).Draw(m.t, "answer")(s, d, e)
	m.eventually(func() bool { return !m.faults.pending("Settle", s.group.name) }, "what groups were told is written down")
}

// pass lets the time go by after which a broker tries again what has failed, and what falls due meanwhile be promoted:
// what a test does next comes after that.
func (m *machine) pass() {
	if !m.tick() {
		return
	}
	m.atOnce(func() bool {
		if m.faults.pending("Promote", "") {
			m.tick()
		}
		return m.promoted()
	}, "what is due is promoted")
}

// tick reports whether there is anything to try again.
func (m *machine) tick() bool {
	if !m.faults.recovering() {
		return false
	}
	m.b.clock.Advance(time.Second)
	m.promoteDue()
	return true
}

func (m *machine) subscribed(opts pubsub.SubscribeOptions) pubsub.Subscription {
	for {
		sub, err := m.b.broker.Subscribe(context.Background(), opts)
		if !errors.Is(err, errFault) {
			require.NoError(m.t, err)
			return sub
		}
	}
}
