package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
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
		if pubsub.Matches(topic, t.Topic) {
			consumed = append(consumed, t)
		}
	}
	pattern := ""
	for _, r := range b.groups {
		if !r.Removed && r.Group == group && r.Topic != topic && pubsub.Matches(r.Topic, topic) {
			pattern = r.Topic
		}
	}
	b.mu.Unlock()
	switch {
	case pattern != "":
		return invalid.New("topic", topic, fmt.Sprintf("with engine nats, the pattern %q by which group %q consumes it", pattern, group))
	case !there:
		return pubsub.ErrNotFound
	}
	if err := b.refuseConsumed(ctx, consumers{Topic: topic, Group: group}); err != nil {
		return err
	}
	wasRemoved := record.Removed // but not all of it, if that was cut off
	record.Removed = true
	if err := b.markRemoved(ctx, b.layout.subject("g", groupHash(topic, group)), record); err != nil {
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
	if wasRemoved {
		return pubsub.ErrNotFound
	}
	return nil
}

// consumers is the question for the streams on a topic, or on patterns that match it; empty: on any. Group is likewise. Where All
// is asked for, a process that works on the bucket answers without a stream, too.
type consumers struct {
	Topic, Group string
	All          bool `json:",omitempty"`
}

// answerFor is how long processes have to say that they consume something.
const answerFor = time.Second

// refuseConsumed returns an invalid.Error if any process has such a stream, full or paused as it may be, or answers without one.
func (b *Broker) refuseConsumed(ctx context.Context, about consumers) error {
	ctx, cancel := context.WithTimeout(ctx, answerFor)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, b.layout.asking, []byte(marshal(about)))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	var have consumers
	if err == nil {
		err = json.Unmarshal(m.Data, &have)
	}
	if err != nil {
		return fmt.Errorf("ask who consumes: %w", err)
	}
	if have.All {
		return b.notAtRest()
	}
	return invalid.New("group", have.Group, fmt.Sprintf("a group that has no live stream on topic %q; stop its app first", have.Topic))
}

// answerConsumes answers another process that asks for streams, if there are.
func (b *Broker) answerConsumes(m *nats.Msg) {
	var about consumers
	if json.Unmarshal(m.Data, &about) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		if (about.Topic == "" || s.consumes(about.Topic)) && (about.Group == "" || s.opts.Group == about.Group) {
			// An error means that there is no connection: nobody hears anything.
			_ = m.Respond([]byte(marshal(consumers{Topic: s.opts.Topic, Group: s.opts.Group})))
			return
		}
	}
	if about.All && !b.opts.AtRest {
		_ = m.Respond([]byte(marshal(about)))
	}
}

// forgetGroup removes what a group is owed of a topic. Dead letters go first: what is redriven meanwhile goes as well.
func (b *Broker) forgetGroup(ctx context.Context, t topicRecord, g groupRecord) (all error) {
	for _, c := range consumersOf(t, g.Group, g.Ordered) {
		if err := b.stream.DeleteConsumer(ctx, c.name()); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			all = errors.Join(all, err)
		}
	}
	for _, kind := range []string{"x", "r", "h"} {
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
	if err := b.refuseConsumed(ctx, consumers{Topic: topic}); err != nil {
		return err
	}
	return b.removeTopic(ctx, t, groups)
}

// removeTopic removes the topic's name last: what is cut off before can be done again.
func (b *Broker) removeTopic(ctx context.Context, t topicRecord, groups []groupRecord) (all error) {
	for _, g := range groups {
		if g.Topic == t.Topic && !g.Removed {
			g.Removed = true
			all = errors.Join(all, b.markRemoved(ctx, b.layout.subject("g", groupHash(t.Topic, g.Group)), g))
		}
		all = errors.Join(all, b.forgetGroup(ctx, t, g))
	}
	for _, kind := range []string{"e", "s"} {
		all = errors.Join(all, b.purge(ctx, b.layout.subject(kind, hash(t.Topic), "*"), 0))
	}
	if all == nil {
		all = b.markRemoved(ctx, b.layout.subject("t", hash(t.Topic)), topicRecord{Topic: t.Topic, Removed: true})
	}
	if all != nil {
		return fmt.Errorf("remove topic %q: %w", t.Topic, all)
	}
	return nil
}

func (b *Broker) markRemoved(ctx context.Context, subject string, record any) error {
	return b.update(ctx, subject, func([]byte) (any, error) { return record, nil })
}

// Clear implements pubsub.Inspector. What was removed leaves a short record of its name.
func (b *Broker) Clear(ctx context.Context) error {
	b.mu.Lock()
	topics, groups := slices.Collect(maps.Values(b.topics)), maps.Clone(b.groups)
	b.mu.Unlock()
	if err := b.refuseConsumed(ctx, consumers{}); err != nil {
		return err
	}
	for _, t := range topics {
		if err := b.boundedly(ctx, func(ctx context.Context) error {
			_, of, err := b.topic(t.Topic)
			if errors.Is(err, pubsub.ErrNotFound) {
				return nil // it was removed meanwhile
			}
			return errors.Join(err, b.removeTopic(ctx, t, of))
		}); err != nil {
			return fmt.Errorf("clear: %w", err)
		}
	}
	for name, g := range groups {
		if g.Removed = true; pubsub.IsPattern(g.Topic) {
			if err := b.boundedly(ctx, func(ctx context.Context) error { return b.markRemoved(ctx, b.layout.subject("g", name), g) }); err != nil {
				return fmt.Errorf("clear: %w", err)
			}
		}
	}
	return b.boundedly(ctx, func(ctx context.Context) error { return b.purge(ctx, b.layout.subject("d", ">"), 0) })
}
