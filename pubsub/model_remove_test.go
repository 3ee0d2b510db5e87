package pubsub_test

import (
	"context"
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const refusedRemoval = "stop its app first"

// remove ends a group for good, unless it has a stream.
func (m *machine) remove() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	err := m.removeGroup(g)
	switch {
	case len(g.streams) > 0:
		require.ErrorContains(m.t, err, refusedRemoval)
	case g.removed:
		require.ErrorIs(m.t, err, pubsub.ErrNotFound)
	default:
		require.NoError(m.t, err)
		g.remove()
	}
}

func (m *machine) removeGroup(g *modelGroup) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	defer cancel()
	return m.b.broker.RemoveGroup(ctx, modelTopic, g.name)
}

// removeDuringSubscribe removes a group while its app starts: either the removal is refused, or the group begins anew.
func (m *machine) removeDuringSubscribe() {
	g := rapid.SampledFrom(m.groups).Draw(m.t, "group")
	if g.removed {
		return
	}
	g.close()
	m.faults.disarm()
	policy, before := m.drawPolicy(), m.stats()
	removed := make(chan error)
	go func() { removed <- m.removeGroup(g) }()
	s := m.stream(g, policy)
	if err := <-removed; err != nil {
		require.ErrorContains(m.t, err, refusedRemoval)
		g.streams = append(g.streams, s)
		return
	}
	g.remove()
	if !m.begins(g, s, policy, before) {
		m.openAnew(g, policy)
	}
}

func (m *machine) drawPolicy() pubsub.DeliverPolicy {
	return rapid.SampledFrom([]pubsub.DeliverPolicy{pubsub.DeliverAll, pubsub.DeliverNew}).Draw(m.t, "policy")
}

// openAnew subscribes a group that was removed.
func (m *machine) openAnew(g *modelGroup, policy pubsub.DeliverPolicy) {
	m.faults.disarm()
	for {
		before := m.stats()
		if m.begins(g, m.stream(g, policy), policy, before) {
			return
		}
	}
}

// begins has the new group of a stream owe what its policy says: what comes next, or what the topic still kept when it
// began. If events left the topic at about that time, nobody knows what it kept, and the group is removed again.
func (m *machine) begins(g *modelGroup, s *modelStream, policy pubsub.DeliverPolicy, before pubsub.TopicStats) bool {
	var after pubsub.TopicStats
	m.atOnce(func() bool {
		after = m.stats()
		return slices.ContainsFunc(after.Groups, func(s pubsub.GroupStats) bool { return s.Group == g.name })
	}, "a stream opens its group")
	if policy == pubsub.DeliverAll {
		if before.Stored != after.Stored {
			s.sub.Close()
			require.NoError(m.t, m.removeGroup(g))
			return false
		}
		for _, e := range m.log[len(m.log)-int(after.Stored):] {
			g.owe(e)
		}
	}
	g.removed, g.streams = false, []*modelStream{s}
	return true
}
