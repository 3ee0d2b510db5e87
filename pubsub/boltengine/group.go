package boltengine

import (
	"context"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// OpenGroup implements pubsub.Engine.
func (e *Engine) OpenGroup(ctx context.Context, topic, group string, policy pubsub.DeliverPolicy, limits pubsub.NameLimits) (done uint64, err error) {
	if pubsub.IsPattern(topic) {
		return 0, e.openPattern(ctx, topic, group, policy, limits)
	}
	err = e.update(ctx, func(b *buckets) error {
		t, g, ok, err := b.find(topic, group)
		if ok || err != nil {
			done = g.Done
			return err
		}
		if t.ID == 0 {
			err = limits.AnotherTopic(e.countNow(b, allTopics()))
		} else {
			err = limits.AnotherGroup(topic, countPrefix(b.groups(), idKey(t.ID)))
		}
		if err != nil {
			return refusal{err}
		}
		if t, err = b.ensureTopic(topic); err != nil {
			return err
		}
		g, err = b.ensureGroup(t, group, policy)
		done = g.Done
		return err
	})
	return done, err
}

func (e *Engine) openPattern(ctx context.Context, pattern, group string, policy pubsub.DeliverPolicy, limits pubsub.NameLimits) error {
	return e.update(ctx, func(b *buckets) error {
		key := patternKey(group, pattern)
		if b.patterns().Get(key) != nil {
			return nil
		}
		if err := limits.AnotherGroup(pattern, countPrefix(b.patterns(), nil)); err != nil {
			return refusal{err}
		}
		if err := b.patterns().Put(key, []byte{}); err != nil {
			return err
		}
		topics, err := b.listTopics()
		if err != nil {
			return err
		}
		for _, t := range topics {
			if pubsub.Matches(pattern, t.name) {
				if _, err := b.ensureGroup(t.topicRecord, group, policy); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Topics implements pubsub.Engine.
func (e *Engine) Topics(context.Context) (names []string, err error) {
	err = e.read(func(b *buckets) error {
		for k := range under(b.topics(), nil) {
			names = append(names, string(k))
		}
		return nil
	})
	return names, err
}

// RemoveGroup implements pubsub.Engine. The group goes in one step, and what it has left behind in small ones. A pattern is
// removed for the topics to come; what the group already has of topics that match is removed topic by topic.
func (e *Engine) RemoveGroup(ctx context.Context, topic, group string) error {
	found := false
	err := e.update(ctx, func(b *buckets) (err error) {
		if pubsub.IsPattern(topic) {
			key := patternKey(group, topic)
			if found = b.patterns().Get(key) != nil; !found {
				return nil
			}
			return b.patterns().Delete(key)
		}
		var t topicRecord
		var g groupRecord
		if t, g, found, err = b.find(topic, group); err != nil || !found {
			return err
		}
		return b.removeGroup(topic, group, t, g)
	})
	if err == nil && !found {
		return pubsub.ErrNotFound
	}
	if err != nil {
		return err
	}
	return e.clean(ctx)
}

func (b *buckets) removeGroup(topic, group string, t topicRecord, g groupRecord) error {
	if err := b.groups().Delete(groupKey(t.ID, group)); err != nil {
		return err
	}
	if err := b.leaveBehind(removedRecord{Groups: []uint32{g.ID}, TopicName: topic, GroupName: group}); err != nil {
		return err
	}
	if err := b.trim(&t, newBudget(maxTrim)); err != nil {
		return err
	}
	b.putTopic(topic, t)
	return nil
}
