package pubsub_test

import (
	"context"
	"errors"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// retryNow has a person end the wait of an event.
func (m *machine) retryNow() {
	m.changeRetry(m.b.broker.RetryNow, func(_ *modelGroup, e *modelEvent) {
		e.notBefore = m.b.clock.Now()
		e.surely = e.notBefore
	})
}

// skipRetry has a person give an event up.
func (m *machine) skipRetry() {
	m.changeRetry(m.b.broker.SkipRetry, func(g *modelGroup, e *modelEvent) { g.dies(e, pubsub.ReasonSkipped) })
}

// changeRetry changes the retry of an event, unless it is on its way already, or not written down yet.
func (m *machine) changeRetry(change func(ctx context.Context, topic, group string, sequence uint64) error, changed func(*modelGroup, *modelEvent)) {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	var waiting []*modelEvent
	for _, e := range g.owed {
		if !e.fresh() && e.inHand == nil && !e.expired(m.b.clock.Now()) {
			waiting = append(waiting, e)
		}
	}
	if len(waiting) == 0 {
		return
	}
	e := waiting[rapid.IntRange(0, len(waiting)-1).Draw(m.t, "retry")]
	for deadline := time.Now().Add(waitLong); ; m.pass() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		err := change(ctx, modelTopic, g.name, uint64(e.sequence))
		cancel()
		switch {
		case err == nil:
			changed(g, e)
			return
		case !errors.Is(err, context.DeadlineExceeded):
			require.True(m.t, errors.Is(err, pubsub.ErrInFlight) || errors.Is(err, pubsub.ErrNotFound), err)
			return
		}
		require.True(m.t, time.Now().Before(deadline), "the group does not answer")
	}
}
