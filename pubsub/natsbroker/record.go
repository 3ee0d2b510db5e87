package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// loadRecords reads the topics and groups that are there. No replica of a stream that was just made may answer yet.
func (b *Broker) loadRecords(ctx context.Context) error {
	err := b.retry(ctx, func(ctx context.Context) error {
		for _, kind := range []string{"t", "g"} {
			for m, err := range b.messages(ctx, b.layout.subject(kind, "*"), 0) {
				if err != nil {
					return err
				}
				b.learn(m.Subject, m.Sequence, m.Data)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read topics and groups: %w", err)
	}
	return nil
}

// watch hears of the topics and groups that other processes add.
func (b *Broker) watch() {
	for {
		b.mu.Lock()
		replaced := b.replaced
		b.mu.Unlock()
		consumer, err := b.js.OrderedConsumer(b.ctx, b.layout.stream, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{b.layout.subject("t", "*"), b.layout.subject("g", "*")},
			DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		})
		if err == nil {
			var watching jetstream.ConsumeContext
			if watching, err = consumer.Consume(func(m jetstream.Msg) { b.heard(m, replaced) }); err == nil {
				select {
				case <-watching.Closed():
				case <-replaced:
					// It goes on in the middle of the other stream. Stop waits for its last try to do so.
					b.working.Go(watching.Stop)
					continue
				case <-b.ctx.Done():
					b.watching = watching
					return
				}
			}
		}
		if !b.pause(10 * retryPause) {
			return
		}
	}
}

// heard is learn for the records that the watch brings, in the order of their sequences, until its stream is replaced.
func (b *Broker) heard(m jetstream.Msg, replaced <-chan struct{}) {
	meta, err := m.Metadata()
	if err != nil {
		return // not a record
	}
	select {
	case <-replaced:
		return
	default:
	}
	b.learn(m.Subject(), meta.Sequence.Stream, m.Data())
	if b.layout.parts(m.Subject())[0] == "g" {
		b.mu.Lock()
		b.groupsAt = meta.Sequence.Stream
		b.mu.Unlock()
	}
}

// knowsGroups reports whether every group that is there now is known.
func (b *Broker) knowsGroups(ctx context.Context) (bool, error) {
	newest, err := b.readLast(ctx, b.layout.subject("g", "*"))
	if err != nil || newest == nil {
		return newest == nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.groupsAt >= newest.Sequence, nil
}

// learn takes note of the record at a sequence, and gives streams what they are owed of it. A newer one may have come before,
// from another side: whoever then believed in a removal would trim what the group is owed.
func (b *Broker) learn(subject string, sequence uint64, data []byte) {
	parts := b.layout.parts(subject)
	b.mu.Lock()
	defer b.mu.Unlock()
	if sequence < b.learned[subject] {
		return
	}
	b.learned[subject] = sequence
	switch parts[0] {
	case "t":
		var r topicRecord
		if json.Unmarshal(data, &r) != nil {
			return
		}
		if r.Removed {
			delete(b.topics, r.Topic)
			delete(b.warned, r.Topic)
			b.counting.Lock()
			defer b.counting.Unlock()
			delete(b.topicCounts, r.Topic)
			for _, g := range b.groups {
				delete(b.groupCounts, groupHash(r.Topic, g.Group))
			}
			return
		}
		b.topics[r.Topic] = r
		for s := range b.streams {
			s.attach(r)
		}
	case "g":
		var r groupRecord
		if json.Unmarshal(data, &r) == nil {
			b.groups[parts[1]] = r
		}
		if r.Removed {
			b.counting.Lock()
			defer b.counting.Unlock()
			delete(b.groupCounts, parts[1])
		}
	}
}

// groupsOf returns the groups that consume a topic, by itself or by a pattern. It is called with b.mu held.
func (b *Broker) groupsOf(topic string) map[string]groupRecord {
	all := map[string]groupRecord{}
	for _, r := range b.groups {
		if r.Removed || !pubsub.Matches(r.Topic, topic) {
			continue
		}
		if have, ok := all[r.Group]; ok {
			r.After = min(r.After, have.After)
		}
		all[r.Group] = r
	}
	return all
}

// ensureTopic makes sure that the topic is known everywhere before the first event that needs it.
func (b *Broker) ensureTopic(ctx context.Context, want topicRecord, published bool) error {
	subject := b.layout.subject("t", hash(want.Topic))
	enough := func(have topicRecord) bool {
		return have.Topic != "" && (have.Keyed || !want.Keyed) && (!published || have.MaxAge == want.MaxAge)
	}
	b.mu.Lock()
	have, count := b.topics[want.Topic], len(b.topics)
	b.mu.Unlock()
	if enough(have) {
		return nil
	}
	return b.update(ctx, subject, func(data []byte) (any, error) {
		have := topicRecord{}
		if len(data) > 0 {
			if err := json.Unmarshal(data, &have); err != nil {
				return nil, fmt.Errorf("topic %q: %w", want.Topic, err)
			}
		}
		if len(data) == 0 || have.Removed {
			if err := b.opts.AnotherTopic(uint64(count)); err != nil {
				return nil, err
			}
			have = topicRecord{}
		}
		if enough(have) {
			return have, nil
		}
		have.Topic, have.Keyed = want.Topic, have.Keyed || want.Keyed
		if published {
			have.MaxAge = want.MaxAge
		}
		return have, nil
	})
}

// ensureGroup makes sure that the group is owed events from here on.
func (b *Broker) ensureGroup(ctx context.Context, opts pubsub.SubscribeOptions) (err error) {
	b.mu.Lock()
	count := uint64(0)
	for _, r := range b.groups {
		if !r.Removed && (r.Topic == opts.Topic || pubsub.IsPattern(r.Topic) && pubsub.IsPattern(opts.Topic)) {
			count++
		}
	}
	for _, r := range b.groups {
		if overlap := pubsub.Matches(r.Topic, opts.Topic) || pubsub.Matches(opts.Topic, r.Topic); overlap &&
			!r.Removed && !r.Undecided && r.Group == opts.Group && err == nil {
			err = checkOrdered(r, opts)
		}
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	return b.update(ctx, b.layout.subject("g", groupHash(opts.Topic, opts.Group)), func(data []byte) (any, error) {
		have := groupRecord{}
		if len(data) > 0 {
			if err := json.Unmarshal(data, &have); err != nil {
				return nil, fmt.Errorf("group %q: %w", opts.Group, err)
			}
			if !have.Removed {
				if have.Undecided {
					have.Undecided, have.Ordered = false, opts.Ordered
				}
				return have, checkOrdered(have, opts)
			}
		}
		if err := b.opts.AnotherGroup(opts.Topic, count); err != nil {
			return nil, err
		}
		r := groupRecord{Topic: opts.Topic, Group: opts.Group, Ordered: opts.Ordered}
		if opts.DeliverPolicy == pubsub.DeliverNew {
			info, err := b.stream.Info(ctx)
			if err != nil {
				return nil, err
			}
			r.After = info.State.LastSeq
		}
		return r, nil
	})
}

// checkOrdered refuses a subscription that differs from what the group is.
func checkOrdered(r groupRecord, opts pubsub.SubscribeOptions) error {
	if r.Ordered == opts.Ordered {
		return nil
	}
	return invalid.New("ordered", fmt.Sprint(opts.Ordered), fmt.Sprintf("%v, as group %q consumes topic %q: with engine nats a group is ordered or not from its start (`dapr-bolt topics remove-group` ends it)", r.Ordered, r.Group, r.Topic))
}

// update changes a record in the light of what it is, which nobody else changes meanwhile.
func (b *Broker) update(ctx context.Context, subject string, change func(data []byte) (any, error)) error {
	for {
		have, err := b.readLast(ctx, subject)
		if err != nil {
			return err
		}
		sequence, data := uint64(0), []byte(nil)
		if have != nil {
			sequence, data = have.Sequence, have.Data
		}
		record, err := change(data)
		if err != nil {
			return err
		}
		if text := []byte(marshal(record)); string(text) != string(data) {
			expected := sequenceText(sequence)
			err = b.retry(ctx, func(ctx context.Context) (err error) {
				sequence, err = b.storeOne(ctx, &nats.Msg{Subject: subject, Data: text, Header: nats.Header{
					headerExpected: {expected}, headerRollup: {"sub"},
				}})
				return err
			})
			if errors.Is(err, errConflict) && b.pauseRetry(ctx) {
				continue // somebody else's, our own from a try that was not confirmed, or one on its way in
			}
			data = text
		}
		if err == nil {
			b.learn(subject, sequence, data)
		}
		return err
	}
}
