package pubsub_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
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
	data          string
	key           string
	deliveries    int
	interruptions int       // since the last delivery that failed
	notBefore     time.Time // no delivery before it
	surely        time.Time // due without doubt: notBefore and all jitter
	expires       time.Time // zero: never
	inHand        *modelStream
	redriven      bool
	reason        pubsub.Reason // of a dead letter
}

// fresh says that e waits for its first delivery, or its first since it was redriven.
func (e *modelEvent) fresh() bool { return e.deliveries+e.interruptions == 0 }

// expired says that e's time to live has ended: it goes as soon as the broker looks at it.
func (e *modelEvent) expired(now time.Time) bool {
	return e.inHand == nil && !e.expires.IsZero() && !now.Before(e.expires)
}

func (e *modelEvent) due(surely bool) time.Time {
	if surely {
		return e.surely
	}
	return e.notBefore
}

// fails is a delivery or an interruption too much, or one after which e waits.
func (e *modelEvent) fails(g *modelGroup, now time.Time, count *int, reason pubsub.Reason) {
	e.inHand = nil
	if *count++; *count == modelMaxDeliver {
		g.dies(e, reason)
		return
	}
	e.notBefore, e.surely = now.Add(modelBackOff), now.Add(modelBackOff+modelBackOff/10)
}

type modelGroup struct {
	name    string
	ordered bool
	keeps   bool          // what has expired, as dead letters
	owed    []*modelEvent // in publish order
	dead    map[string]*modelEvent
	streams []*modelStream
}

type modelStream struct {
	group  *modelGroup
	opened time.Time
	sub    *pubsub.Subscription
	hand   []*pubsub.Delivery
}

// tooMuchMetadata is more than an event may have.
var tooMuchMetadata = strings.Repeat("x", 64<<10+1)

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
		BackOff: pubsub.BackOff{modelBackOff}, MaxAckPending: modelPrefetch, DeadLetterExpired: g.keeps,
	}
}

// free says whether the promises let e go out now; surely whether they demand it.
func (g *modelGroup) free(e *modelEvent, now time.Time, surely bool) bool {
	if e.inHand != nil || now.Before(e.due(surely)) || surely && e.expired(now) {
		return false
	}
	fresh := e.fresh()
	for _, other := range g.owed {
		if other == e || other.expired(now) && !now.Before(other.due(surely)) {
			continue
		}
		before := slices.Index(g.owed, other) < slices.Index(g.owed, e)
		switch {
		case g.ordered && other.inHand != nil,
			g.ordered && fresh && !other.fresh(),
			g.ordered && surely && before,
			e.key != "" && e.key == other.key && (other.inHand != nil || fresh && !other.fresh() || fresh && before && !other.redriven),
			surely && e.redriven && before:
			return false
		}
	}
	return true
}

func (m *machine) publish() {
	n := rapid.IntRange(1, 3).Draw(m.t, "n")
	var messages []pubsub.Message
	var refused []bool
	now := m.b.clock.Now()
	for range n {
		m.count++
		id := fmt.Sprint("id", rapid.IntRange(0, 5).Draw(m.t, "id"))
		key := rapid.SampledFrom([]string{"", "", "k", "l"}).Draw(m.t, "key")
		data := fmt.Sprint("event", m.count)
		ttl := time.Duration(max(rapid.IntRange(-60, 60).Draw(m.t, "ttl"), 0)) * time.Second
		message := pubsub.Message{Data: []byte(data), EventID: id, PartitionKey: key, TTL: ttl}
		if rapid.IntRange(0, 9).Draw(m.t, "out of bounds") == 0 {
			message.Metadata = map[string]string{"x": tooMuchMetadata}
			messages, refused = append(messages, message), append(refused, true)
			continue
		}
		messages, refused = append(messages, message), append(refused, false)
		if until, ok := m.seen[id]; ok && now.Before(until) {
			continue
		}
		m.seen[id] = now.Add(modelWindow)
		for _, g := range m.groups {
			e := &modelEvent{data: data, key: key}
			if ttl > 0 {
				e.expires = now.Add(ttl)
			}
			g.owed = append(g.owed, e)
		}
	}
	for i, err := range m.b.broker.Publish(context.Background(), modelTopic, messages, pubsub.PublishOptions{DedupWindow: modelWindow}) {
		require.Equal(m.t, refused[i], err != nil, "%v", err)
	}
}

func (m *machine) subscribe() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	if len(g.streams) == 2 {
		return
	}
	m.open(g)
}

func (m *machine) open(g *modelGroup) {
	sub, err := m.b.broker.Subscribe(context.Background(), g.options())
	require.NoError(m.t, err)
	g.streams = append(g.streams, &modelStream{group: g, sub: sub, opened: m.b.clock.Now()})
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
	i := rapid.IntRange(0, len(s.hand)-1).Draw(m.t, "delivery")
	d := s.hand[i]
	s.hand = slices.Delete(s.hand, i, i+1)
	return s, d, s.group.find(d)
}

func (g *modelGroup) forget(e *modelEvent) {
	g.owed = slices.DeleteFunc(g.owed, func(o *modelEvent) bool { return o == e })
}

func (g *modelGroup) dies(e *modelEvent, reason pubsub.Reason) {
	g.forget(e)
	e.redriven, e.reason = false, reason
	g.dead[e.data] = e
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
	e.interruptions = 0
	e.fails(s.group, m.b.clock.Now(), &e.deliveries, pubsub.ReasonMaxDeliver)
}

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
		m.b.clock.Advance(modelBackOff + modelBackOff/10)
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
		e.fails(g, m.b.clock.Now(), &e.interruptions, pubsub.ReasonInterrupted)
	}
	s.putBack()
}

// find returns the event that a stream has in hand.
func (g *modelGroup) find(d *pubsub.Delivery) *modelEvent {
	at := slices.IndexFunc(g.owed, func(e *modelEvent) bool { return e.data == string(d.Event.Data) })
	return g.owed[at]
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

// deadLetters waits until the dead letters that the promises demand are there. There are no others but of what has
// expired.
func (m *machine) deadLetters() []pubsub.DeadLetter {
	deadline := time.Now().Add(waitLong)
	for {
		dead, err := m.b.broker.DeadLetters(context.Background(), pubsub.DeadLetterFilter{Limit: 1000})
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

// hasDied checks a dead letter. Whether the broker has looked at an event that expired shows here first.
func (g *modelGroup) hasDied(t *rapid.T, d pubsub.DeadLetter, now time.Time) {
	data := string(d.Event.Data)
	if at := slices.IndexFunc(g.owed, func(e *modelEvent) bool { return e.data == data }); at >= 0 && g.keeps && g.owed[at].expired(now) {
		g.dies(g.owed[at], pubsub.ReasonExpired)
	}
	require.Contains(t, g.dead, data, "a dead letter of group %s", g.name)
	require.Equal(t, g.dead[data].reason, d.Reason, "reason of %s", data)
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
		*e = modelEvent{data: e.data, key: e.key, redriven: true}
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
		g.streams = nil
	}
	m.b.clock.Advance(time.Hour)
	for _, g := range m.groups {
		for _, e := range slices.Clone(g.owed) {
			switch {
			case !e.expired(m.b.clock.Now()):
			case g.keeps:
				g.dies(e, pubsub.ReasonExpired)
			default:
				g.forget(e)
			}
		}
		m.open(g)
		for len(g.owed) > 0 {
			s := m.takeFrom(g)
			require.NotNil(m.t, s, "group %s is owed %d events and none is free", g.name, len(g.owed))
			g.forget(g.find(s.hand[0]))
			s.hand[0].Ack()
			s.hand = nil
		}
	}
	m.deadLetters()
	require.Eventually(m.t, func() bool {
		all, err := m.b.broker.Stats(context.Background())
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
			{name: "plain", keeps: rapid.Bool().Draw(rt, "plain keeps expired"), dead: map[string]*modelEvent{}},
			{name: "ordered", ordered: true, keeps: rapid.Bool().Draw(rt, "ordered keeps expired"), dead: map[string]*modelEvent{}},
		}}
		for range m.groups {
			m.subscribe()
		}
		for _, g := range m.groups {
			if len(g.streams) == 0 {
				m.open(g)
			}
		}
		actions := []func(){m.publish, m.publish, m.subscribe, m.take, m.take, m.take, m.ack, m.ack, m.nack, m.nack, m.endStream, m.interrupt, m.interruptInARow, m.restart, m.step, m.redrive}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")]()
		}
		m.drain()
	})
}
