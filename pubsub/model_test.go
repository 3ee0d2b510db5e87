package pubsub_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	modelTopic      = "t"
	modelMaxDeliver = 3
	modelBackOff    = 10 * time.Second
	modelPrefetch   = 2
	// modelSweepInterval is the default.
	modelSweepInterval = 10 * time.Second
)

type machine struct {
	b      *bench
	t      *rapid.T
	groups []*modelGroup
	modelTopicState
	count int
	// expiring reports whether events have a time to live.
	expiring bool
	engine   *busyEngine
	faults   *faultyEngine
	// prefetch is how many events a stream is sure to have in flight.
	prefetch int
}

func (m *machine) subscribe() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	if len(g.streams) == 2 {
		return
	}
	m.open(g)
}

// open subscribes. A group that was removed begins anew.
func (m *machine) open(g *modelGroup) {
	if g.removed {
		m.openAnew(g, m.drawPolicy())
		return
	}
	g.streams = append(g.streams, m.stream(g, pubsub.DeliverAll))
}

func (m *machine) stream(g *modelGroup, policy pubsub.DeliverPolicy) *modelStream {
	sub := m.subscribed(g.options(policy))
	return &modelStream{group: g, sub: sub, opened: m.b.clock.Now()}
}

// take receives an event where the promises demand that there is one.
func (m *machine) take() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	m.takeFrom(g)
}

func (m *machine) takeFrom(g *modelGroup) *modelStream {
	// With two streams, the other one may hold the event in its prefetch.
	if len(g.streams) != 1 || len(g.streams[0].hand) >= m.prefetch {
		return nil
	}
	s := g.streams[0]
	for deadline := time.Now().Add(waitLong); ; m.pass() {
		now := m.b.clock.Now()
		if !slices.ContainsFunc(g.owed, func(e *modelEvent) bool { return g.free(e, now, true) }) {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		d, err := s.sub.Next(ctx)
		cancel()
		if err == nil {
			m.took(s, d)
			return s
		}
		require.True(m.t, time.Now().Before(deadline), "group %s is owed an event: %s", g.name, err)
	}
}

// took checks that the promises allow a delivery.
func (m *machine) took(s *modelStream, d *pubsub.Delivery) {
	g := s.group
	at := slices.IndexFunc(g.owed, func(e *modelEvent) bool { return e.data == dataOf(&d.Event) })
	require.GreaterOrEqual(m.t, at, 0, "group %s got %s, which it is not owed", g.name, d.Event.Data)
	e := g.owed[at]
	require.Nil(m.t, e.inHand, "%s is in two hands", e.data)
	require.Equal(m.t, e.deliveries+1, d.Count, "count of %s", e.data)
	now := m.b.clock.Now()
	require.False(m.t, now.Before(e.notBefore), "%s came before its wait was over", e.data)
	// The stream may have had it since before its end.
	require.False(m.t, e.expired(now) && !s.opened.Before(e.expires), "%s has expired", e.data)
	require.True(m.t, g.free(e, now, false), "%s overtook an event in group %s", e.data, g.name)
	e.inHand = s
	s.hand = append(s.hand, d)
}

func (m *machine) pick() (*modelStream, *pubsub.Delivery, *modelEvent) {
	var held []*modelStream
	for _, g := range m.groups {
		for _, s := range g.streams {
			if len(s.hand) > 0 {
				held = append(held, s)
			}
		}
	}
	if len(held) == 0 {
		return nil, nil, nil
	}
	s := rapid.SampledFrom(held).Draw(m.t, "stream")
	d := s.end(rapid.IntRange(0, len(s.hand)-1).Draw(m.t, "delivery"))
	return s, d, s.group.find(d)
}

// answer ends a delivery, if there is one, as how says.
func (m *machine) answer(how func(*modelStream, *pubsub.Delivery, *modelEvent)) func() {
	return func() {
		if s, d, e := m.pick(); d != nil {
			how(s, d, e)
		}
	}
}

func (m *machine) acks(s *modelStream, d *pubsub.Delivery, e *modelEvent) {
	d.Ack()
	d.Nack("after the ack: changes nothing")
	s.group.forget(e)
}

func (m *machine) nacks(s *modelStream, d *pubsub.Delivery, e *modelEvent) {
	d.Nack("refused")
	e.interruptions = 0
	e.fails(s.group, m.b.clock.Now(), &e.deliveries, pubsub.ReasonMaxDeliver)
}

func (m *machine) buries(s *modelStream, d *pubsub.Delivery, e *modelEvent) { s.group.bury(d, e) }

func (m *machine) interrupt() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	m.interruptIn(g)
}

// interruptInARow is an event, most likely the same one, that ends stream after stream.
func (m *machine) interruptInARow() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	for range modelMaxDeliver {
		if len(g.streams) == 0 {
			m.open(g)
		}
		m.takeFrom(g)
		m.interruptIn(g)
		m.advance(modelBackOff + modelBackOff/10)
	}
}

// interruptIn ends a stream over the oldest event that it was handed.
func (m *machine) interruptIn(g *modelGroup) {
	if len(g.streams) == 0 {
		return
	}
	i := rapid.IntRange(0, len(g.streams)-1).Draw(m.t, "stream")
	s := g.streams[i]
	g.streams = slices.Delete(g.streams, i, i+1)
	s.sub.Interrupt()
	if len(s.hand) > 0 {
		e := g.find(s.hand[0])
		now := m.b.clock.Now()
		e.fails(g, now, &e.interruptions, pubsub.ReasonInterrupted)
		if e.interruptions == 1 { // it comes again at once
			e.notBefore, e.surely = now, now
		}
	}
	s.putBack()
}

func (m *machine) endStream() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	if len(g.streams) == 0 {
		return
	}
	s := g.streams[0]
	g.streams = g.streams[1:]
	s.sub.Close()
	s.putBack()
}

func (m *machine) restart() {
	for _, g := range m.groups {
		g.close()
	}
	m.b.reopen()
}

func (m *machine) step() {
	m.advance(time.Duration(rapid.IntRange(1, 40).Draw(m.t, "seconds")) * time.Second)
}

// deadLetters waits until the dead letters that the promises demand are there. There are no others but of what has
// expired.
func (m *machine) deadLetters() []pubsub.DeadLetter {
	deadline := time.Now().Add(waitLong)
	for ; ; m.pass() {
		dead, _, err := m.b.broker.DeadLetters(context.Background(), pubsub.DeadLetterFilter{Limit: 1000}, 0)
		require.NoError(m.t, err)
		want := 0
		for _, g := range m.groups {
			for _, d := range dead {
				if g.name == d.Group {
					g.hasDied(m.t, d, m.b.clock.Now())
				}
			}
			want += len(g.dead)
		}
		if len(dead) == want {
			return dead
		}
		require.True(m.t, time.Now().Before(deadline), "%d dead letters, want %d", len(dead), want)
		time.Sleep(time.Millisecond)
	}
}

// redriveBehindBusyKeys sends dead letters back while others, most likely of the same keys, are in flight or retried.
func (m *machine) redriveBehindBusyKeys() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	if len(g.streams) == 0 {
		m.open(g)
	}
	m.publish()
	m.publish()
	for range 3 {
		if s := m.takeFrom(g); s != nil {
			d := s.end(len(s.hand) - 1)
			g.bury(d, g.find(d))
		}
	}
	m.takeFrom(g)
	if rapid.Bool().Draw(m.t, "retried") {
		m.answer(m.nacks)()
	}
	m.redrive()
	m.publish()
	m.takeFrom(g)
	m.answer(m.acks)()
	m.takeFrom(g)
}

// redrive sends some of the dead letters back, in any order.
func (m *machine) redrive() {
	dead := m.deadLetters()
	if len(dead) == 0 {
		return
	}
	var ids []uint64
	for _, d := range dead {
		ids = append(ids, d.ID)
	}
	ids = rapid.Permutation(ids).Draw(m.t, "dead letters")[:rapid.IntRange(1, len(ids)).Draw(m.t, "n")]
	moved, err := m.b.broker.Redrive(context.Background(), ids)
	require.NoError(m.t, err)
	require.Len(m.t, moved, len(ids))
	for _, d := range moved {
		for _, g := range m.groups {
			if g.name == d.Group {
				g.redrive(dataOf(&d.Event))
			}
		}
	}
}

// drain shows that every group gets all that it is still owed, and nothing else.
func (m *machine) drain() {
	m.faults.disarm()
	for _, g := range m.groups {
		g.close()
	}
	m.advance(time.Hour)
	for _, g := range m.groups {
		m.open(g)
		for _, e := range slices.Clone(g.owed) {
			switch {
			case !e.expired(m.b.clock.Now()):
			case g.keeps:
				g.dies(e, pubsub.ReasonExpired)
			default:
				g.forget(e)
			}
		}
		for len(g.owed) > 0 {
			s := m.takeFrom(g)
			require.NotNil(m.t, s, "group %s is owed %d events and none is free", g.name, len(g.owed))
			g.forget(g.find(s.hand[0]))
			s.hand[0].Ack()
			s.hand = nil
		}
	}
	m.deadLetters()
	// What a group did not want when it began leaves with a sweep that comes after its last acknowledgement.
	m.eventually(func() bool {
		m.b.clock.Advance(modelSweepInterval)
		all, err := m.b.broker.Stats(context.Background(), "", "", 0)
		require.NoError(m.t, err)
		for _, t := range all {
			for _, g := range t.Groups {
				if g.Waiting+g.InFlight+g.Retrying > 0 {
					return false
				}
			}
			if t.Stored > 0 {
				return false
			}
		}
		return true
	}, "what every group is done with leaves the topic")
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "model")
		require.NoError(rt, err)
		// Ten thousand histories are not to fill the disk; one that fails can be run again.
		defer func() { require.NoError(rt, os.RemoveAll(dir)) }()
		b := &bench{t: t, path: dir + "/model.db", clock: clockwork.NewFakeClockAt(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
		prefetch := modelPrefetch
		if rapid.Bool().Draw(rt, "no room") {
			b.opts.Budget = pubsub.NewBudget(1)
			prefetch = 1
		}
		m := &machine{b: b, t: rt, prefetch: prefetch, modelTopicState: modelTopicState{seen: map[string]time.Time{}}, groups: []*modelGroup{
			{name: "plain", keeps: rapid.Bool().Draw(rt, "plain keeps expired"), dead: map[string]*modelEvent{}},
			{name: "ordered", ordered: true, keeps: rapid.Bool().Draw(rt, "ordered keeps expired"), dead: map[string]*modelEvent{}},
		}}
		m.expiring = rapid.Bool().Draw(rt, "expiring")
		b.wrap = func(e pubsub.Engine) pubsub.Engine {
			m.engine = &busyEngine{Engine: e, clock: b.clock, running: make(chan struct{})}
			m.faults = newFaultyEngine(m.engine)
			m.engine.faults = m.faults
			return m.faults
		}
		b.open()
		defer b.close()
		for range m.groups {
			m.subscribe()
		}
		for _, g := range m.groups {
			if len(g.streams) == 0 {
				m.open(g)
			}
		}
		ack, nack, bury := m.answer(m.acks), m.answer(m.nacks), m.answer(m.buries)
		actions := []func(){m.publish, m.publish, m.subscribe, m.take, m.take, m.take, ack, ack, nack, nack, m.endStream, m.interrupt, m.interruptInARow, m.restart, m.step, m.stepDuringSweep, bury, m.redrive, m.redriveBehindBusyKeys, m.remove, m.removeDuringSubscribe, m.retryNow, m.skipRetry, m.fault, m.fault, m.faultOfSettle}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")]()
		}
		m.drain()
	})
}
