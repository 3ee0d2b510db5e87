package pubsub

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Consumers implements Inspector.
func (b *Broker) Consumers(topic string) (all []Consumer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		if !s.consumes(topic) {
			continue
		}
		c := Consumer{SubscribeOptions: s.opts, InFlight: len(s.inFlight), Paused: s.paused, Silent: s.silent}
		if c.InFlight > 0 {
			c.OldestSince = s.acks.Since()
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, c Consumer) int {
		return cmp.Or(strings.Compare(a.Group, c.Group), strings.Compare(a.Instance, c.Instance))
	})
	return all
}

// Stats implements Inspector.
func (b *Broker) Stats(ctx context.Context, after, text string, limit int) ([]TopicStats, error) {
	stats, err := b.engine.Stats(ctx, after, text, limit)
	if err != nil {
		return nil, fmt.Errorf("count topics: %w", err)
	}
	for i := range stats {
		b.addMemory(&stats[i])
	}
	return stats, nil
}

// TopicStats implements Inspector.
func (b *Broker) TopicStats(ctx context.Context, topic string) (TopicStats, error) {
	t, err := b.engine.TopicStats(ctx, topic)
	if err == nil {
		b.addMemory(&t)
	}
	return t, err
}

// addMemory adds what is in memory alone.
func (b *Broker) addMemory(t *TopicStats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.topics[t.Topic]; known != nil {
		t.TopicCounts = known.TopicCounts
	}
	for i := range t.Groups {
		g := &t.Groups[i]
		g.GroupCounts = b.counts(groupName{t.Topic, g.Group}).Clone()
		live := b.groups[t.Topic][g.Group]
		if live == nil {
			continue
		}
		g.Streams = len(live.streams)
		for _, s := range live.streams {
			for _, d := range s.inFlight {
				if d.group != live {
					continue
				}
				// On disk, it is still where it was.
				g.InFlight++
				from := &g.Waiting
				if d.isRetrying() {
					from = &g.Retrying
				}
				*from -= min(*from, 1)
			}
		}
	}
}
