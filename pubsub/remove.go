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
	for {
		b.mu.Lock()
		if b.hasStreams(topic, group) {
			b.mu.Unlock()
			return invalid.New("group", group, "a group that has no live stream on the topic; stop its app first")
		}
		held := b.locks.take(name)
		b.mu.Unlock()
		if held == nil {
			break
		}
		// Its last settlements are being written down, or it is being swept.
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
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

// hasStreams is called with b.mu held.
func (b *Broker) hasStreams(topic, group string) bool {
	for s := range b.streams {
		if s.opts.Group == group && s.consumes(topic) {
			return true
		}
	}
	return false
}

// RemoveTopic implements Inspector.
func (b *Broker) RemoveTopic(ctx context.Context, topic string) error {
	stats, err := b.engine.TopicStats(ctx, topic)
	if err != nil {
		return fmt.Errorf("remove topic: %w", err)
	}
	if err := b.refuseConsumed(topic); err != nil {
		return err
	}
	var locked []groupName
	defer func() {
		for _, name := range locked {
			b.unlockGroup(name)
		}
	}()
	for _, g := range stats.Groups {
		name := groupName{topic, g.Group}
		if err := b.lockGroup(ctx, name); err != nil {
			return err
		}
		locked = append(locked, name)
	}
	if err := b.refuseConsumed(topic); err != nil {
		return err
	}
	// A publish that comes after this makes the topic anew.
	b.mu.Lock()
	delete(b.topics, topic)
	b.mu.Unlock()
	if err := b.engine.RemoveTopic(ctx, topic); err != nil {
		return fmt.Errorf("remove topic %q: %w", topic, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range locked {
		delete(b.groupCounts, name)
	}
	b.recent.forget(topic)
	return nil
}

// refuseConsumed returns an invalid.Error if a stream consumes the topic.
func (b *Broker) refuseConsumed(topic string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		if s.consumes(topic) {
			return invalid.New("topic", topic, fmt.Sprintf("a topic that nobody consumes; stop the app of group %q first", s.opts.Group))
		}
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
