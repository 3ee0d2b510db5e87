package pubsub_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// modelTopicState is what the topic was given: its log from the first event on, those that wait for their time, and the
// ids that are remembered.
type modelTopicState struct {
	log     []*modelEvent
	delayed []*modelEvent
	seen    map[string]time.Time
}

const (
	// modelSize is what an event's data takes; what is stored beside it is less than modelOverhead.
	modelSize     = 4096
	modelOverhead = 1024
	modelWindow   = time.Minute
)

// tooMuchMetadata is more than an event may have.
var tooMuchMetadata = bytes.Repeat([]byte("x"), 64<<10+1)

// padded is the data of an event, dataOf the other way.
func padded(data string) []byte { return fmt.Appendf(nil, "%-*s", modelSize, data) }

func dataOf(e *pubsub.Event) string { return string(bytes.TrimRight(e.Data, " ")) }

func (m *machine) publish() {
	opts := pubsub.PublishOptions{DedupWindow: modelWindow}
	bounded, room := rapid.IntRange(0, 2).Draw(m.t, "bounded") == 0, rapid.IntRange(0, 2).Draw(m.t, "room")
	held, known := int64(0), false
	if bounded {
		held, known = m.held()
	}
	if known {
		opts.Limits.MaxBytes = max(held+int64(room)*(modelSize+modelOverhead), 1)
	} else {
		room = math.MaxInt
	}
	now := m.b.clock.Now()
	var messages []pubsub.Message
	var refused []bool
	for range rapid.IntRange(1, 3).Draw(m.t, "n") {
		e, id := m.draw(now)
		message := pubsub.Message{Data: padded(e.data), EventID: id, PartitionKey: e.key, DeliverAt: e.deliverAt}
		if !e.expires.IsZero() {
			message.TTL = e.expires.Sub(now)
		}
		outOfBounds := rapid.IntRange(0, 9).Draw(m.t, "out of bounds") == 0
		if outOfBounds {
			message.Metadata = map[string]string{"x": string(tooMuchMetadata)}
		}
		duplicate := now.Before(m.seen[id])
		full := !outOfBounds && !duplicate && room == 0
		messages, refused = append(messages, message), append(refused, outOfBounds || full)
		if outOfBounds || duplicate || full {
			continue
		}
		room--
		m.seen[id] = now.Add(modelWindow)
		if e.deliverAt.IsZero() {
			m.append(e)
		} else {
			m.delayed = append(m.delayed, e)
		}
	}
	for i, err := range m.b.broker.Publish(context.Background(), modelTopic, messages, opts) {
		require.Equal(m.t, refused[i], err != nil, "%d of %d with room for %d: %v", i, len(messages), room, err)
	}
}

// draw makes an event that is not published yet.
func (m *machine) draw(now time.Time) (e *modelEvent, id string) {
	m.count++
	e = &modelEvent{
		data: fmt.Sprint("event", m.count),
		key:  rapid.SampledFrom([]string{"", "", "k", "l"}).Draw(m.t, "key"),
	}
	if ttl := rapid.IntRange(-60, 60).Draw(m.t, "ttl"); ttl > 0 && m.expiring {
		e.expires = now.Add(time.Duration(ttl) * time.Second)
	}
	if wait := rapid.IntRange(-120, 60).Draw(m.t, "wait"); wait > 0 {
		e.deliverAt = now.Add(time.Duration(wait) * time.Second)
	}
	return e, fmt.Sprint("id", rapid.IntRange(0, 5).Draw(m.t, "id"))
}

// append puts an event at the end of the log; each group there is owes it.
func (m *machine) append(e *modelEvent) {
	m.log = append(m.log, e)
	e.sequence = len(m.log)
	for _, g := range m.groups {
		if !g.removed {
			g.owe(e)
		}
	}
}

// advance sets the clock forward. What was held back until then is promoted, in the order in which it was due.
func (m *machine) advance(d time.Duration) {
	m.b.clock.Advance(d)
	m.promote()
}

func (m *machine) promote() {
	m.promoteDue()
	m.eventually(m.promoted, "what is due is promoted")
	require.Empty(m.t, m.engine.late())
}

func (m *machine) promoted() bool { return m.stats().Delayed == uint64(len(m.delayed)) }

func (m *machine) promoteDue() {
	slices.SortStableFunc(m.delayed, func(a, b *modelEvent) int { return a.deliverAt.Compare(b.deliverAt) })
	for len(m.delayed) > 0 && !m.delayed[0].deliverAt.After(m.b.clock.Now()) {
		m.append(m.delayed[0])
		m.delayed = m.delayed[1:]
	}
}

// held returns what the topic's events take, once all that groups were told is written down: so many bytes for each of
// those in the log, the delayed ones, and those that groups retry or have redriven. It is not known while events are
// about to leave.
func (m *machine) held() (size int64, known bool) {
	if m.expiring {
		return 0, false
	}
	m.eventually(func() bool {
		t := m.stats()
		for _, g := range m.groups {
			if g.removed {
				continue
			}
			waiting, redriven, retrying := g.count()
			at := slices.IndexFunc(t.Groups, func(s pubsub.GroupStats) bool { return s.Group == g.name })
			s := t.Groups[at]
			if s.Waiting != uint64(waiting+redriven) || s.Retrying != uint64(retrying) {
				return false
			}
		}
		return true
	}, "what groups were told is written down")
	// The engine's counts may be ahead of the snapshot that came with them, not of a later one.
	t := m.stats()
	copies := int(t.Stored) + len(m.delayed)
	for _, g := range m.groups {
		_, redriven, retrying := g.count()
		copies += redriven + retrying
	}
	require.GreaterOrEqual(m.t, t.Bytes, int64(copies*modelSize), "bytes of %d events", copies)
	require.LessOrEqual(m.t, t.Bytes, int64(copies*(modelSize+modelOverhead)), "bytes of %d events", copies)
	return t.Bytes, t.Stored == uint64(len(m.log)-m.done())
}

// done returns the sequence up to which every group is done.
func (m *machine) done() int {
	done, groups := len(m.log), 0
	for _, g := range m.groups {
		if g.removed {
			continue
		}
		groups++
		for _, e := range g.owed {
			if e.fresh() && !e.redriven {
				done = min(done, e.sequence-1)
			}
		}
	}
	if groups == 0 {
		return 0 // and events stay, of which some may have left before
	}
	return done
}

// stats are what the engine holds, without what is in flight.
func (m *machine) stats() pubsub.TopicStats {
	all, err := m.engine.Stats(context.Background(), "", "", 0)
	require.NoError(m.t, err)
	require.Len(m.t, all, 1)
	return all[0]
}

// eventually waits for what may take another try of the broker's, atOnce for what does not.
func (m *machine) eventually(is func() bool, what string) {
	m.atOnce(func() bool { m.pass(); return is() }, what)
}

func (m *machine) atOnce(is func() bool, what string) {
	for deadline := time.Now().Add(waitLong); !is(); time.Sleep(time.Millisecond) {
		require.True(m.t, time.Now().Before(deadline), what)
	}
}
