package pubsub_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// The model is what a group is promised, written down without a broker: which events it is owed, how often each was
// tried, and when it may come again. The broker is free in what the promises leave open, such as which of two streams
// gets an event.
type modelEvent struct {
	data       string
	key        string
	deliveries int
	notBefore  time.Time // no delivery before it
	surely     time.Time // due without doubt: notBefore and all jitter
	inHand     *modelStream
	redriven   bool
}

type modelGroup struct {
	name    string
	ordered bool
	owed    []*modelEvent // in publish order
	dead    map[string]*modelEvent
	streams []*modelStream
}

type modelStream struct {
	group *modelGroup
	sub   *pubsub.Subscription
	hand  []*pubsub.Delivery
}

const (
	modelTopic      = "t"
	modelMaxDeliver = 3
	modelBackOff    = 10 * time.Second
	modelWindow     = time.Minute
	modelPrefetch   = 2
)

type machine struct {
	b      *bench
	t      *rapid.T
	groups []*modelGroup
	seen   map[string]time.Time
	count  int
	// prefetch is how many events a stream is sure to have in hand.
	prefetch int
}

func (g *modelGroup) options() pubsub.SubscribeOptions {
	return pubsub.SubscribeOptions{
		Group: g.name, Topic: modelTopic, Ordered: g.ordered, MaxDeliver: modelMaxDeliver,
		BackOff: pubsub.BackOff{modelBackOff}, MaxAckPending: modelPrefetch,
	}
}

// free says whether the promises let e go out now; surely whether they demand it.
func (g *modelGroup) free(e *modelEvent, now time.Time, surely bool) bool {
	due := e.notBefore
	if surely {
		due = e.surely
	}
	if e.inHand != nil || now.Before(due) {
		return false
	}
	fresh := e.deliveries == 0
	for _, other := range g.owed {
		if other == e {
			continue
		}
		before := slices.Index(g.owed, other) < slices.Index(g.owed, e)
		switch {
		case g.ordered && other.inHand != nil,
			g.ordered && fresh && other.deliveries > 0,
			g.ordered && surely && before,
			e.key != "" && e.key == other.key && (other.inHand != nil || fresh && other.deliveries > 0 || fresh && before && !other.redriven),
			surely && e.redriven && before:
			return false
		}
	}
	return true
}

func (m *machine) publish() {
	n := rapid.IntRange(1, 3).Draw(m.t, "n")
	var messages []pubsub.Message
	now := m.b.clock.Now()
	for range n {
		m.count++
		id := fmt.Sprint("id", rapid.IntRange(0, 5).Draw(m.t, "id"))
		key := rapid.SampledFrom([]string{"", "", "k", "l"}).Draw(m.t, "key")
		data := fmt.Sprint("event", m.count)
		messages = append(messages, pubsub.Message{Data: []byte(data), EventID: id, PartitionKey: key})
		if until, ok := m.seen[id]; ok && now.Before(until) {
			continue
		}
		m.seen[id] = now.Add(modelWindow)
		for _, g := range m.groups {
			g.owed = append(g.owed, &modelEvent{data: data, key: key})
		}
	}
	for _, err := range m.b.broker.Publish(context.Background(), modelTopic, messages, pubsub.PublishOptions{DedupWindow: modelWindow}) {
		require.NoError(m.t, err)
	}
}

func (m *machine) subscribe() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	if len(g.streams) == 2 {
		return
	}
	sub, err := m.b.broker.Subscribe(context.Background(), g.options())
	require.NoError(m.t, err)
	g.streams = append(g.streams, &modelStream{group: g, sub: sub})
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
	now := m.b.clock.Now()
	if !slices.ContainsFunc(g.owed, func(e *modelEvent) bool { return g.free(e, now, true) }) {
		return nil
	}
	s := g.streams[0]
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	defer cancel()
	d, err := s.sub.Next(ctx)
	require.NoError(m.t, err, "group %s is owed an event", g.name)
	m.took(s, d)
	return s
}

// took checks that the promises allow a delivery.
func (m *machine) took(s *modelStream, d *pubsub.Delivery) {
	g := s.group
	at := slices.IndexFunc(g.owed, func(e *modelEvent) bool { return e.data == string(d.Event.Data) })
	require.GreaterOrEqual(m.t, at, 0, "group %s got %s, which it is not owed", g.name, d.Event.Data)
	e := g.owed[at]
	require.Nil(m.t, e.inHand, "%s is in two hands", e.data)
	require.Equal(m.t, e.deliveries+1, d.Count, "count of %s", e.data)
	require.False(m.t, m.b.clock.Now().Before(e.notBefore), "%s came before its wait was over", e.data)
	require.True(m.t, g.free(e, m.b.clock.Now(), false), "%s overtook an event in group %s", e.data, g.name)
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
	i := rapid.IntRange(0, len(s.hand)-1).Draw(m.t, "delivery")
	d := s.hand[i]
	s.hand = slices.Delete(s.hand, i, i+1)
	at := slices.IndexFunc(s.group.owed, func(e *modelEvent) bool { return e.data == string(d.Event.Data) })
	return s, d, s.group.owed[at]
}

func (g *modelGroup) forget(e *modelEvent) {
	g.owed = slices.DeleteFunc(g.owed, func(o *modelEvent) bool { return o == e })
}

func (m *machine) ack() {
	s, d, e := m.pick()
	if d == nil {
		return
	}
	d.Ack()
	d.Nack("after the ack: changes nothing")
	s.group.forget(e)
}

func (m *machine) nack() {
	s, d, e := m.pick()
	if d == nil {
		return
	}
	d.Nack("refused")
	e.inHand = nil
	e.deliveries++
	if e.deliveries == modelMaxDeliver {
		s.group.forget(e)
		e.redriven = false
		s.group.dead[e.data] = e
		return
	}
	e.notBefore = m.b.clock.Now().Add(modelBackOff)
	e.surely = m.b.clock.Now().Add(modelBackOff + modelBackOff/10)
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

func (s *modelStream) putBack() {
	for _, e := range s.group.owed {
		if e.inHand == s {
			e.inHand = nil
		}
	}
}

func (m *machine) restart() {
	for _, g := range m.groups {
		for _, s := range g.streams {
			s.putBack()
		}
		g.streams = nil
	}
	m.b.reopen()
}

func (m *machine) step() {
	m.b.clock.Advance(time.Duration(rapid.IntRange(1, 40).Draw(m.t, "seconds")) * time.Second)
}

// deadLetters waits until the dead letters that the promises demand are there, and are the only ones.
func (m *machine) deadLetters() []pubsub.DeadLetter {
	var want, got []string
	for _, g := range m.groups {
		for data := range maps.Keys(g.dead) {
			want = append(want, g.name+" "+data)
		}
	}
	slices.Sort(want)
	var dead []pubsub.DeadLetter
	require.Eventually(m.t, func() bool {
		var err error
		dead, err = m.b.broker.DeadLetters(context.Background(), pubsub.DeadLetterFilter{Limit: 1000})
		require.NoError(m.t, err)
		got = nil
		for _, d := range dead {
			got = append(got, d.Group+" "+string(d.Event.Data))
		}
		slices.Sort(got)
		return slices.Equal(want, got)
	}, waitLong, time.Millisecond, "dead letters")
	return dead
}

func (m *machine) redrive() {
	dead := m.deadLetters()
	if len(dead) == 0 {
		return
	}
	d := rapid.SampledFrom(dead).Draw(m.t, "dead letter")
	moved, err := m.b.broker.Redrive(context.Background(), []uint64{d.ID})
	require.NoError(m.t, err)
	require.Len(m.t, moved, 1)
	for _, g := range m.groups {
		if g.name != d.Group {
			continue
		}
		e := g.dead[string(d.Event.Data)]
		delete(g.dead, e.data)
		e.deliveries, e.notBefore, e.surely, e.redriven = 0, time.Time{}, time.Time{}, true
		g.owed = append(g.owed, e)
	}
}

// drain shows that every group gets all that it is still owed, and nothing else.
func (m *machine) drain() {
	for _, g := range m.groups {
		for _, s := range g.streams {
			s.sub.Close()
			s.putBack()
		}
		sub, err := m.b.broker.Subscribe(context.Background(), g.options())
		require.NoError(m.t, err)
		g.streams = []*modelStream{{group: g, sub: sub}}
	}
	m.b.clock.Advance(time.Hour)
	for _, g := range m.groups {
		for len(g.owed) > 0 {
			s := m.takeFrom(g)
			require.NotNil(m.t, s, "group %s is owed %d events and none is free", g.name, len(g.owed))
			data := string(s.hand[0].Event.Data)
			s.hand[0].Ack()
			s.hand = nil
			g.owed = slices.DeleteFunc(g.owed, func(e *modelEvent) bool { return e.data == data })
		}
	}
	m.deadLetters()
	require.Eventually(m.t, func() bool {
		all, err := m.b.broker.Stats(context.Background())
		require.NoError(m.t, err)
		for _, t := range all {
			for _, g := range t.Groups {
				if g.Waiting+g.InHand+g.Delayed > 0 {
					return false
				}
			}
			if t.Stored > 0 {
				return false
			}
		}
		return true
	}, waitLong, time.Millisecond, "what every group is done with leaves the topic")
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
		b.open()
		defer b.close()
		m := &machine{b: b, t: rt, prefetch: prefetch, seen: map[string]time.Time{}, groups: []*modelGroup{
			{name: "plain", dead: map[string]*modelEvent{}},
			{name: "ordered", ordered: true, dead: map[string]*modelEvent{}},
		}}
		for range m.groups {
			m.subscribe()
		}
		for _, g := range m.groups {
			if len(g.streams) == 0 {
				sub, err := b.broker.Subscribe(context.Background(), g.options())
				require.NoError(rt, err)
				g.streams = []*modelStream{{group: g, sub: sub}}
			}
		}
		actions := []func(){m.publish, m.publish, m.subscribe, m.take, m.take, m.take, m.ack, m.ack, m.nack, m.nack, m.endStream, m.restart, m.step, m.redrive}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")]()
		}
		m.drain()
	})
}
