package pubsub

import (
	"context"
	"errors"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// RemoveGroup implements Service.
func (b *Broker) RemoveGroup(ctx context.Context, topic, group string) error {
	name := groupName{topic, group}
	err := b.lockGroup(ctx, name, func() error {
		if b.consumer(topic, group) != nil {
			return invalid.New("group", group, "a group that has no live stream on the topic; stop its app first")
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A stream that comes now opens the group anew.
	defer b.unlockGroup(name)
	if err := b.engine.RemoveGroup(ctx, topic, group); err != nil {
		return fmt.Errorf("remove group %q from topic %q: %w", group, topic, err)
	}
	b.mu.Lock()
	delete(b.groupCounts, name)
	b.mu.Unlock()
	return nil
}

// consumer returns a stream that consumes the topic, of that group unless it is empty; nil: there is none. It is called with
// b.mu held.
func (b *Broker) consumer(topic, group string) *subscription {
	for s := range b.streams {
		if (group == "" || s.opts.Group == group) && s.consumes(topic) {
			return s
		}
	}
	return nil
}

// RemoveTopic implements Inspector.
func (b *Broker) RemoveTopic(ctx context.Context, topic string) error {
	stats, err := b.engine.TopicStats(ctx, topic)
	if err != nil {
		return fmt.Errorf("remove topic: %w", err)
	}
	var locked []groupName
	defer func() {
		for _, name := range locked {
			b.unlockGroup(name)
		}
	}()
	for _, g := range stats.Groups {
		name := groupName{topic, g.Group}
		if err := b.lockGroup(ctx, name, func() error { return b.refuseConsumed(topic) }); err != nil {
			return err
		}
		locked = append(locked, name)
	}
	err = b.engine.RemoveTopic(ctx, topic, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if err := b.refuseConsumed(topic); err != nil {
			return err
		}
		// A publish that comes after this makes the topic anew, and a stream opens its groups anew.
		delete(b.topics, topic)
		b.recent.forget(topic)
		for _, name := range locked {
			delete(b.groupCounts, name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		b.mu.Lock()
		b.addTopic(topic)
		b.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("remove topic %q: %w", topic, err)
	}
	return nil
}

// refuseConsumed returns an invalid.Error if a stream consumes the topic. It is called with b.mu held.
func (b *Broker) refuseConsumed(topic string) error {
	if s := b.consumer(topic, ""); s != nil {
		return invalid.New("topic", topic, fmt.Sprintf("a topic that nobody consumes; stop the app of group %q first", s.opts.Group))
	}
	return nil
}

// Clear implements Inspector.
func (b *Broker) Clear(ctx context.Context) error {
	names, err := b.engine.Topics(ctx)
	if err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	b.mu.Lock()
	consumed := ""
	for s := range b.streams {
		consumed = s.opts.Group
	}
	b.mu.Unlock()
	if consumed != "" {
		return invalid.New("bucket", "with live streams", fmt.Sprintf("one that nobody consumes; stop the app of group %q first", consumed))
	}
	for _, name := range names {
		if err := b.RemoveTopic(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	if err := b.engine.Clear(ctx); err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	return nil
}
