package pubsub_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// wildcardTopic is what one stream over all topics is promised of one of them: its events in order, and its turn.
type wildcardTopic struct {
	name  string
	count int
	// owed are the numbers of the events that are neither acknowledged nor in flight.
	owed []int
	// open says that the stream has had an event of the topic, from when on the topic takes its turns. passed counts the
	// events of other topics that came since then while it had some waiting.
	open   bool
	passed int
}

type wildcardMachine struct {
	b      *bench
	t      *rapid.T
	slots  int
	topics []*wildcardTopic
	sub    pubsub.Subscription
	hand   []*pubsub.Delivery
}

func (m *wildcardMachine) subscribe() {
	var err error
	m.sub, err = m.b.broker.Subscribe(context.Background(), pubsub.SubscribeOptions{Group: "g", Topic: "t.*", MaxAckPending: m.slots})
	require.NoError(m.t, err)
}

// publish draws from topics of which some come up late.
func (m *wildcardMachine) publish() {
	at := rapid.IntRange(0, 4).Draw(m.t, "topic")
	if at >= len(m.topics) {
		m.topics = append(m.topics, &wildcardTopic{name: fmt.Sprint("t.", len(m.topics))})
		at = len(m.topics) - 1
		for _, t := range m.topics {
			t.passed = 0 // the turns begin anew
		}
	}
	topic := m.topics[at]
	if len(topic.owed) == 0 {
		topic.passed = 0
	}
	var messages []pubsub.Message
	for range rapid.IntRange(1, 10).Draw(m.t, "n") {
		topic.owed = append(topic.owed, topic.count)
		messages = append(messages, message(fmt.Sprint(topic.count)))
		topic.count++
	}
	m.b.publish(topic.name, messages...)
}

// take receives an event, if there are any. It is the first of its topic, and no other topic has waited for longer than
// until all had two turns, beside the slots that were given out before: the first to be read may come out of turn.
func (m *wildcardMachine) take() {
	waits := func(t *wildcardTopic) bool { return len(t.owed) > 0 }
	if len(m.hand) == m.slots || !slices.ContainsFunc(m.topics, waits) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	defer cancel()
	d, err := m.sub.Next(ctx)
	require.NoError(m.t, err)
	m.hand = append(m.hand, d)
	for _, t := range m.topics {
		switch {
		case t.name == d.Event.Topic:
			require.NotEmpty(m.t, t.owed, "topic %s", t.name)
			require.Equal(m.t, fmt.Sprint(t.owed[0]), string(d.Event.Data), "order of %s", t.name)
			t.owed, t.open, t.passed = t.owed[1:], true, 0
		case t.open && waits(t):
			t.passed++
			require.Less(m.t, t.passed, 2*len(m.topics)+m.slots, "topic %s has its turn", t.name)
		}
	}
}

func (m *wildcardMachine) ack() {
	if len(m.hand) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.hand)-1).Draw(m.t, "delivery")
	m.hand[i].Ack()
	m.hand = slices.Delete(m.hand, i, i+1)
}

func (m *wildcardMachine) takeAndAck() {
	m.take()
	m.ack()
}

// restart ends the stream and opens another one, which gets what was in flight.
func (m *wildcardMachine) restart() {
	if rapid.IntRange(0, 3).Draw(m.t, "restarts") > 0 {
		return
	}
	m.sub.Close()
	for _, t := range m.topics {
		t.open, t.passed = false, 0
		for _, d := range m.hand {
			if d.Event.Topic == t.name {
				var number int
				_, err := fmt.Sscan(string(d.Event.Data), &number)
				require.NoError(m.t, err)
				t.owed = append(t.owed, number)
			}
		}
		slices.Sort(t.owed)
	}
	m.hand = nil
	m.subscribe()
}

// TestModelOfAWildcard compares a stream over several topics with what it is promised.
func TestModelOfAWildcard(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "model")
		require.NoError(rt, err)
		defer func() { require.NoError(rt, os.RemoveAll(dir)) }()
		b := &bench{t: t, path: dir + "/model.db", clock: clockwork.NewFakeClockAt(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
		b.open()
		defer b.close()
		m := &wildcardMachine{b: b, t: rt, slots: rapid.IntRange(1, 3).Draw(rt, "slots")}
		m.subscribe()
		actions := []func(){m.publish, m.publish, m.take, m.ack, m.takeAndAck, m.takeAndAck, m.takeAndAck, m.takeAndAck, m.takeAndAck, m.takeAndAck, m.restart}
		for range rapid.IntRange(5, 100).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")]()
		}
		for _, t := range m.topics {
			for len(t.owed)+len(m.hand) > 0 {
				m.takeAndAck()
			}
		}
	})
}
