package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Stats implements pubsub.Inspector. Streams and counts are those of this process; Bytes is zero, since the servers do not
// count them by topic; LastSequence is zero, since sequences are those of the bucket.
func (b *Broker) Stats(ctx context.Context, after, text string, limit int) ([]pubsub.TopicStats, error) {
	b.mu.Lock()
	names := slices.Sorted(maps.Keys(b.topics))
	b.mu.Unlock()
	from, found := slices.BinarySearch(names, after)
	if found {
		from++
	}
	names = slices.DeleteFunc(names[from:], func(name string) bool { return !pubsub.HoldsText(name, text) })
	if limit > 0 && len(names) > limit {
		names = names[:limit]
	}
	stats := make([]pubsub.TopicStats, 0, len(names))
	for _, name := range names {
		one, err := b.TopicStats(ctx, name)
		if errors.Is(err, pubsub.ErrNotFound) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		stats = append(stats, one)
	}
	return stats, nil
}

// TopicStats implements pubsub.Inspector.
func (b *Broker) TopicStats(ctx context.Context, topic string) (pubsub.TopicStats, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	one := pubsub.TopicStats{Topic: topic}
	t, groups, err := b.topic(topic)
	if err != nil {
		return one, err
	}
	one.MaxAge = t.MaxAge
	b.counting.Lock()
	one.TopicCounts = b.topicCounts[topic]
	b.counting.Unlock()
	stored, oldest, err := b.count(ctx, b.layout.subject("e", hash(topic), "*"), 1)
	if err == nil {
		one.Stored, one.OldestTime = stored, ageOf(oldest)
		one.Delayed, _, err = b.count(ctx, b.layout.subject("s", hash(topic), "*"), 1)
	}
	for _, g := range groups {
		var stat pubsub.GroupStats
		if err == nil {
			stat, err = b.groupStats(ctx, t, g)
		}
		one.Groups = append(one.Groups, stat)
	}
	if err != nil {
		return one, fmt.Errorf("count topic %q: %w", topic, err)
	}
	return one, nil
}

func (b *Broker) groupStats(ctx context.Context, t topicRecord, g groupRecord) (pubsub.GroupStats, error) {
	stat := pubsub.GroupStats{Group: g.Group}
	for _, c := range consumersOf(t, g.Group, g.Ordered) {
		info, err := b.info(ctx, c)
		if err != nil {
			return stat, err
		}
		if info == nil {
			continue
		}
		stat.Waiting += info.NumPending
		stat.InFlight += uint64(info.NumAckPending)
		if info.NumPending == 0 && info.NumAckPending == 0 {
			continue
		}
		oldest, err := b.readNext(ctx, b.subjects(c)[0], info.AckFloor.Stream+1)
		if err != nil {
			return stat, err
		}
		if oldest != nil && (stat.OldestTime == nil || oldest.Time.Before(*stat.OldestTime)) {
			stat.OldestTime = &oldest.Time
		}
	}
	name := groupHash(t.Topic, g.Group)
	var err error
	if stat.Dead, _, err = b.count(ctx, b.layout.subject("x", name, "*"), 1); err != nil {
		return stat, err
	}
	if stat.Retrying, _, err = b.count(ctx, b.layout.subject("h", name, "*"), 1); err != nil {
		return stat, err
	}
	b.countGroup(name, func(c *pubsub.GroupCounts) { stat.GroupCounts = c.Clone() })
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		if s.opts.Group == g.Group && s.consumes(t.Topic) {
			stat.Streams++
			// To the servers, what comes again waits until it is acknowledged.
			stat.Retrying -= min(stat.Retrying, s.retriesInFlight(t.Topic))
		}
	}
	stat.InFlight -= min(stat.InFlight, stat.Retrying)
	return stat, nil
}

// ageOf is when a message was stored.
func ageOf(m *jetstream.RawStreamMsg) *time.Time {
	if m == nil {
		return nil
	}
	return &m.Time
}
