package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

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
		if err := b.refuseConsumed(ctx, t, record); err != nil {
			return err
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
		all = errors.Join(all, b.forgetGroup(ctx, t, record))
	}
	if all != nil {
		return fmt.Errorf("remove group %q from topic %q: %w", group, topic, all)
	}
	return nil
}

// refuseConsumed returns an invalid.Error if any process consumes the group's events of a topic.
func (b *Broker) refuseConsumed(ctx context.Context, t topicRecord, g groupRecord) error {
	for _, c := range consumersOf(t, g.Group, g.Ordered) {
		info, err := b.info(ctx, c)
		if err != nil {
			return fmt.Errorf("group %q of topic %q: %w", g.Group, t.Topic, err)
		}
		if info != nil && info.NumWaiting > 0 {
			return invalid.New("group", g.Group, "a group that has no live stream on the topic; stop its app first")
		}
	}
	return nil
}

// forgetGroup removes what a group is owed of a topic.
func (b *Broker) forgetGroup(ctx context.Context, t topicRecord, g groupRecord) (all error) {
	for _, c := range consumersOf(t, g.Group, g.Ordered) {
		if err := b.stream.DeleteConsumer(ctx, c.name()); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			all = errors.Join(all, err)
		}
	}
	for _, kind := range []string{"r", "h", "x"} {
		all = errors.Join(all, b.purge(ctx, b.layout.subject(kind, groupHash(t.Topic, g.Group), "*"), 0))
	}
	return all
}

// RemoveTopic implements pubsub.Inspector. A group that consumes it by a pattern stays, and begins anew with it.
func (b *Broker) RemoveTopic(ctx context.Context, topic string) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	t, groups, err := b.topic(topic)
	if err != nil {
		return fmt.Errorf("remove topic: %w", err)
	}
	if err := b.refuseTopic(ctx, t, groups); err != nil {
		return err
	}
	all := b.markRemoved(ctx, b.layout.subject("t", hash(topic)), func() any { return topicRecord{Topic: topic, Removed: true} })
	for _, g := range groups {
		if g.Topic == topic {
			g.Removed = true
			all = errors.Join(all, b.markRemoved(ctx, b.layout.subject("g", groupHash(topic, g.Group)), func() any { return g }))
		}
		all = errors.Join(all, b.forgetGroup(ctx, t, g))
	}
	for _, kind := range []string{"e", "s"} {
		all = errors.Join(all, b.purge(ctx, b.layout.subject(kind, hash(topic), "*"), 0))
	}
	if all != nil {
		return fmt.Errorf("remove topic %q: %w", topic, all)
	}
	return nil
}

func (b *Broker) markRemoved(ctx context.Context, subject string, record func() any) error {
	return b.update(ctx, subject, func([]byte) (any, error) { return record(), nil })
}

// refuseTopic returns an invalid.Error if somebody consumes the topic.
func (b *Broker) refuseTopic(ctx context.Context, t topicRecord, groups []groupRecord) error {
	for _, g := range groups {
		if err := b.refuseConsumed(ctx, t, g); err != nil {
			return err
		}
	}
	if consumers := b.Consumers(t.Topic); len(consumers) > 0 {
		return invalid.New("topic", t.Topic, fmt.Sprintf("a topic that nobody consumes; stop the app of group %q first", consumers[0].Group))
	}
	return nil
}

// Clear implements pubsub.Inspector. What was removed leaves a short record of its name.
func (b *Broker) Clear(ctx context.Context) error {
	b.mu.Lock()
	topics, groups := slices.Collect(maps.Values(b.topics)), maps.Clone(b.groups)
	b.mu.Unlock()
	bounded, cancel := b.bounded(ctx)
	defer cancel()
	for _, t := range topics {
		_, of, err := b.topic(t.Topic)
		if err == nil {
			err = b.refuseTopic(bounded, t, of)
		}
		if err != nil && !errors.Is(err, pubsub.ErrNotFound) {
			return err
		}
	}
	for _, t := range topics {
		if err := b.RemoveTopic(ctx, t.Topic); err != nil && !errors.Is(err, pubsub.ErrNotFound) {
			return err
		}
	}
	for name, g := range groups {
		if g.Removed = true; pubsub.IsPattern(g.Topic) {
			if err := b.markRemoved(bounded, b.layout.subject("g", name), func() any { return g }); err != nil {
				return fmt.Errorf("clear: %w", err)
			}
		}
	}
	return b.purge(bounded, b.layout.subject("d", ">"), 0)
}
