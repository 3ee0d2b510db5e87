package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Stats implements pubsub.Service. Streams and counts are those of this process; Bytes is zero, since
// the servers do not count them by topic; LastSequence is zero, since sequences are those of the bucket.
func (b *Broker) Stats(ctx context.Context) ([]pubsub.TopicStats, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	// By kind of subject, and the hash in it.
	counts := map[string]map[string]uint64{}
	for _, kind := range []string{"e", "s", "h", "x"} {
		counts[kind] = map[string]uint64{}
		info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(b.layout.subject(kind, ">")))
		if err != nil {
			return nil, fmt.Errorf("count topics: %w", err)
		}
		for subject, n := range info.State.Subjects {
			counts[kind][b.layout.parts(subject)[1]] += n
		}
	}
	b.mu.Lock()
	topics := slices.Collect(maps.Values(b.topics))
	b.mu.Unlock()
	stats := make([]pubsub.TopicStats, 0, len(topics))
	for _, t := range topics {
		b.mu.Lock()
		groups := slices.SortedFunc(maps.Values(b.groupsOf(t.Topic)), func(x, y groupRecord) int { return strings.Compare(x.Group, y.Group) })
		one := pubsub.TopicStats{Topic: t.Topic, Stored: counts["e"][hash(t.Topic)], Delayed: counts["s"][hash(t.Topic)], MaxAge: t.MaxAge}
		b.mu.Unlock()
		b.counting.Lock()
		one.TopicCounts = b.topicCounts[t.Topic]
		b.counting.Unlock()
		if one.Stored > 0 {
			oldest, err := b.readNext(ctx, b.layout.subject("e", hash(t.Topic), "*"), 1)
			if err != nil {
				return nil, fmt.Errorf("count topics: %w", err)
			}
			if oldest != nil {
				one.OldestTime = &oldest.Time
			}
		}
		for _, g := range groups {
			stat, err := b.groupStats(ctx, t, g)
			if err != nil {
				return nil, fmt.Errorf("count topics: %w", err)
			}
			name := groupHash(t.Topic, g.Group)
			stat.Dead, stat.Retrying = counts["x"][name], counts["h"][name]
			stat.InFlight -= min(stat.InFlight, stat.Retrying)
			one.Groups = append(one.Groups, stat)
		}
		stats = append(stats, one)
	}
	slices.SortFunc(stats, func(a, c pubsub.TopicStats) int { return strings.Compare(a.Topic, c.Topic) })
	return stats, nil
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
	b.countGroup(groupHash(t.Topic, g.Group), func(c *pubsub.GroupCounts) { stat.GroupCounts = c.Clone() })
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		if s.opts.Group == g.Group && (s.opts.Topic == t.Topic || pubsub.Matches(s.opts.Topic, t.Topic)) {
			stat.Streams++
		}
	}
	return stat, nil
}

// RemoveGroup implements pubsub.Service. A group's part in one topic of those that a pattern of it matches cannot be
// removed.
func (b *Broker) RemoveGroup(ctx context.Context, topic, group string) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	b.mu.Lock()
	record, there := b.groups[groupHash(topic, group)]
	var consumed []topicRecord
	for _, t := range b.topics {
		if t.Topic == topic || pubsub.IsPattern(topic) && pubsub.Matches(topic, t.Topic) {
			consumed = append(consumed, t)
		}
	}
	pattern := ""
	for _, r := range b.groups {
		if !r.Removed && r.Group == group && r.Topic != topic && pubsub.IsPattern(r.Topic) && pubsub.Matches(r.Topic, topic) {
			pattern = r.Topic
		}
	}
	b.mu.Unlock()
	switch {
	case pattern != "":
		return invalid.New("topic", topic, fmt.Sprintf("with engine nats, the pattern %q by which group %q consumes it", pattern, group))
	case !there || record.Removed:
		return pubsub.ErrNotFound
	}
	for _, t := range consumed {
		for _, c := range consumersOf(t, group, record.Ordered) {
			info, err := b.info(ctx, c)
			if err != nil {
				return fmt.Errorf("remove group: %w", err)
			}
			if info != nil && info.NumWaiting > 0 {
				return invalid.New("group", group, "a group that has no live stream on the topic; stop its app first")
			}
		}
	}
	record.Removed = true
	if err := b.update(ctx, b.layout.subject("g", groupHash(topic, group)), func([]byte) (any, error) { return record, nil }); err != nil {
		return fmt.Errorf("remove group %q from topic %q: %w", group, topic, err)
	}
	var all error
	for _, t := range consumed {
		b.mu.Lock()
		_, still := b.groupsOf(t.Topic)[group]
		b.mu.Unlock()
		if still {
			continue
		}
		for _, c := range consumersOf(t, group, record.Ordered) {
			if err := b.stream.DeleteConsumer(ctx, c.name()); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				all = errors.Join(all, err)
			}
		}
		for _, kind := range []string{"r", "h", "x"} {
			all = errors.Join(all, b.purge(ctx, b.layout.subject(kind, groupHash(t.Topic, group), "*"), 0))
		}
	}
	if all != nil {
		return fmt.Errorf("remove group %q from topic %q: %w", group, topic, all)
	}
	return nil
}
