package cluster_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
)

const (
	modelTopic      = "t"
	modelMaxDeliver = 2
	modelRoom       = 4
)

// owedEvent is an event that a group has not ended yet, or a dead letter of it.
type owedEvent struct {
	id, key                   string
	deliveries, interruptions int
	inFlight                  bool
}

// owedGroup is what a group is promised: the events that it is owed, in order, the redriven ones behind the others.
type owedGroup struct {
	name    string
	ordered bool
	owed    []*owedEvent
	dead    []*owedEvent
	stream  pubsub.Subscription // nil: none is open
	at      int                 // whose it is
	hand    []*pubsub.Delivery
}

// first reports whether nothing that e must not overtake is owed before it.
func (g *owedGroup) first(e *owedEvent) bool {
	for _, before := range g.owed {
		if before == e {
			break
		}
		if g.ordered || e.key != "" && before.key == e.key {
			return false
		}
	}
	return true
}

func (g *owedGroup) find(d *pubsub.Delivery) *owedEvent {
	at := slices.IndexFunc(g.owed, func(e *owedEvent) bool { return e.id == d.Event.ID })
	if at < 0 {
		return nil
	}
	return g.owed[at]
}

func (g *owedGroup) forget(e *owedEvent) {
	g.owed = slices.DeleteFunc(g.owed, func(o *owedEvent) bool { return o == e })
}

// clusterModel compares two brokers on one bucket with what is promised.
type clusterModel struct {
	t       *rapid.T
	opts    natsbroker.Options
	brokers [2]*natsbroker.Broker
	seen    map[string]bool
	groups  []*owedGroup
}

func (m *clusterModel) broker() *natsbroker.Broker {
	return m.brokers[rapid.IntRange(0, 1).Draw(m.t, "broker")]
}

func (m *clusterModel) group() *owedGroup {
	return m.groups[rapid.IntRange(0, len(m.groups)-1).Draw(m.t, "group")]
}

// publish publishes ids of which most were published before, by either process.
func (m *clusterModel) publish() {
	id := strconv.Itoa(rapid.IntRange(0, 12).Draw(m.t, "id"))
	message := pubsub.Message{EventID: id, Data: []byte(id)}
	if number, _ := strconv.Atoi(id); number%3 == 0 {
		message.PartitionKey = "key"
	}
	require.NoError(m.t, m.broker().Publish(ctx, modelTopic, []pubsub.Message{message}, byID)[0])
	if m.seen[id] {
		return
	}
	m.seen[id] = true
	for _, g := range m.groups {
		g.owed = append(g.owed, &owedEvent{id: id, key: message.PartitionKey})
	}
}

func (m *clusterModel) open(g *owedGroup, at int) {
	var err error
	g.at = at
	g.stream, err = m.brokers[at].Subscribe(ctx, pubsub.SubscribeOptions{
		Group: g.name, Topic: modelTopic, Ordered: g.ordered, MaxDeliver: modelMaxDeliver,
		BackOff: pubsub.BackOff{time.Millisecond}, MaxAckPending: modelRoom,
	})
	require.NoError(m.t, err)
}

// close ends a group's stream; what it has in flight goes back, uncounted.
func (m *clusterModel) close(g *owedGroup) {
	if g.stream != nil {
		g.stream.Close()
	}
	for _, d := range g.hand {
		g.find(d).inFlight = false
	}
	g.stream, g.hand = nil, nil
}

// move has a group consume at the other process.
func (m *clusterModel) move() {
	g := m.group()
	m.close(g)
	m.open(g, 1-g.at)
}

// interrupt ends a group's stream over the event that was being handled, and has the group consume anywhere.
func (m *clusterModel) interrupt() {
	g := m.group()
	g.stream.Interrupt()
	if len(g.hand) > 0 {
		e := g.find(g.hand[0])
		e.inFlight = false
		g.hand = g.hand[1:]
		if e.interruptions++; e.interruptions == modelMaxDeliver {
			g.forget(e)
			g.dead = append(g.dead, e)
		}
	}
	m.close(g)
	m.open(g, rapid.IntRange(0, 1).Draw(m.t, "at"))
}

// restart is a process that ends and comes back.
func (m *clusterModel) restart() {
	at := rapid.IntRange(0, 1).Draw(m.t, "broker")
	for _, g := range m.groups {
		if g.at == at {
			m.close(g)
		}
	}
	m.end(at)
	m.begin(at)
	for _, g := range m.groups {
		if g.stream == nil {
			m.open(g, g.at)
		}
	}
}

func (m *clusterModel) begin(at int) {
	var err error
	m.brokers[at], err = natsbroker.Open(ctx, m.opts)
	require.NoError(m.t, err)
}

func (m *clusterModel) end(at int) {
	ctx, cancel := context.WithTimeout(ctx, waitLong)
	defer cancel()
	require.NoError(m.t, m.brokers[at].Close(ctx))
}

func (m *clusterModel) take() { m.takeFrom(m.group()) }

// takeFrom receives an event where one is owed that may come.
func (m *clusterModel) takeFrom(g *owedGroup) {
	if len(g.hand) == modelRoom || !slices.ContainsFunc(g.owed, func(e *owedEvent) bool { return !e.inFlight && g.first(e) }) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, waitLong)
	defer cancel()
	d, err := g.stream.Next(ctx)
	require.NoError(m.t, err, "group %s is owed an event", g.name)
	e := g.find(d)
	require.NotNil(m.t, e, "group %s is not owed %s", g.name, d.Event.ID)
	require.False(m.t, e.inFlight, "%s is in flight twice in group %s", e.id, g.name)
	require.Equal(m.t, e.deliveries+1, d.Count, "count of %s in group %s", e.id, g.name)
	require.True(m.t, g.first(e), "%s overtook an event in group %s", e.id, g.name)
	e.inFlight = true
	g.hand = append(g.hand, d)
}

// finish ends an event in flight.
func (m *clusterModel) finish() {
	g := m.group()
	if len(g.hand) == 0 {
		return
	}
	at := rapid.IntRange(0, len(g.hand)-1).Draw(m.t, "delivery")
	d := g.hand[at]
	g.hand = slices.Delete(g.hand, at, at+1)
	e := g.find(d)
	e.inFlight = false
	switch rapid.IntRange(0, 3).Draw(m.t, "how") {
	case 0:
		d.Ack()
		g.forget(e)
	case 1:
		d.Bury(pubsub.ReasonTooLarge, "too large")
		g.forget(e)
		g.dead = append(g.dead, e)
	default:
		d.Nack("refused")
		e.interruptions = 0
		if e.deliveries++; e.deliveries == modelMaxDeliver {
			g.forget(e)
			g.dead = append(g.dead, e)
		}
	}
}

// deadLetters waits until those are there that must be, and no others.
func (m *clusterModel) deadLetters() (all []pubsub.DeadLetter) {
	want := []string{}
	for _, g := range m.groups {
		for _, e := range g.dead {
			want = append(want, g.name+" "+e.id)
		}
	}
	slices.Sort(want)
	have := []string{}
	require.Eventually(m.t, func() bool {
		var err error
		all, _, err = m.brokers[0].DeadLetters(ctx, pubsub.DeadLetterFilter{Limit: 1000}, 0)
		require.NoError(m.t, err)
		have = have[:0]
		for _, d := range all {
			have = append(have, d.Group+" "+d.Event.ID)
		}
		slices.Sort(have)
		return slices.Equal(want, have)
	}, waitLong, 10*time.Millisecond, "dead letters: %v", want)
	return all
}

// takeAway sends a dead letter back, or purges it.
func (m *clusterModel) takeAway() {
	all := m.deadLetters()
	if len(all) == 0 {
		return
	}
	d := all[rapid.IntRange(0, len(all)-1).Draw(m.t, "dead letter")]
	g := m.groups[slices.IndexFunc(m.groups, func(g *owedGroup) bool { return g.name == d.Group })]
	g.dead = slices.DeleteFunc(g.dead, func(e *owedEvent) bool { return e.id == d.Event.ID })
	if rapid.Bool().Draw(m.t, "purge") {
		n, err := m.broker().Purge(ctx, []uint64{d.ID})
		require.NoError(m.t, err)
		require.Equal(m.t, 1, n)
		return
	}
	moved, err := m.broker().Redrive(ctx, []uint64{d.ID})
	require.NoError(m.t, err)
	require.Len(m.t, moved, 1)
	g.owed = append(g.owed, &owedEvent{id: d.Event.ID, key: d.Event.PartitionKey})
}

// drain shows that every group gets all that it is owed, and nothing else.
func (m *clusterModel) drain() {
	for _, g := range m.groups {
		m.close(g)
		m.open(g, 1-g.at)
		for len(g.owed) > 0 {
			m.takeFrom(g)
			g.forget(g.find(g.hand[0]))
			g.hand[0].Ack()
			g.hand = nil
		}
	}
	m.deadLetters()
}

// TestModel compares two brokers on three servers with a model of what they promise. pubsub's own model has the broker's
// clock in its hands, and servers have none that a test can move: what takes time is not in this one.
func TestModel(t *testing.T) {
	require.NoError(t, flag.Set("rapid.checks", "5")) // some seconds each
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{})
	buckets := 0
	rapid.Check(t, func(t *rapid.T) {
		buckets++
		m := &clusterModel{t: t, seen: map[string]bool{}, opts: natsbroker.Options{
			URL: servers.URL(), Prefix: "model", Bucket: fmt.Sprint("b", buckets), MinPayload: 1 << 20, Timeout: waitLong,
			SweepInterval: 200 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}, groups: []*owedGroup{{name: "plain"}, {name: "ordered", ordered: true}}}
		for at := range m.brokers {
			m.begin(at)
			defer func() { m.end(at) }()
		}
		for at, g := range m.groups {
			m.open(g, at)
		}
		actions := []func(){m.publish, m.publish, m.publish, m.take, m.take, m.take, m.finish, m.finish, m.finish, m.move, m.interrupt, m.restart, m.takeAway}
		for range rapid.IntRange(10, 50).Draw(t, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(t, "action")]()
		}
		m.drain()
	})
}
