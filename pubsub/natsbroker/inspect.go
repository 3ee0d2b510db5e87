package natsbroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pageBytes bounds a page of events.
const pageBytes = 4 << 20

// count counts the messages of a subject from a sequence on, and says what the first is; a replica may lag behind in it.
func (b *Broker) count(ctx context.Context, subject string, from uint64) (n uint64, first *jetstream.RawStreamMsg, err error) {
	err = b.ask(ctx, func(ctx context.Context) error {
		found, err := jetstreamext.GetBatch(ctx, b.js, b.layout.stream, 1, jetstreamext.GetBatchSubject(subject), jetstreamext.GetBatchSeq(max(from, 1)))
		if err != nil {
			return err
		}
		n, first = 0, nil
		for m, err := range found {
			if errors.Is(err, jetstreamext.ErrNoMessages) {
				return nil
			}
			if err != nil {
				return err
			}
			behind, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			if err != nil {
				return fmt.Errorf("count messages: %w", err)
			}
			n, first = behind+1, m
		}
		return nil
	})
	return n, first, err
}

// readMany shows up to limit messages of a subject from a sequence on, until visit returns false.
func (b *Broker) readMany(ctx context.Context, subject string, from uint64, limit, maxBytes int, visit func(m *jetstream.RawStreamMsg) bool) (read int, err error) {
	found, err := jetstreamext.GetBatch(ctx, b.js, b.layout.stream, limit, jetstreamext.GetBatchSubject(subject),
		jetstreamext.GetBatchSeq(max(from, 1)), jetstreamext.GetBatchMaxBytes(maxBytes))
	if err != nil {
		return 0, b.orUnreachable(err)
	}
	for m, err := range found {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return read, b.orUnreachable(err)
		}
		read++
		m.Data = unpackRecords(m.Header, m.Data)
		if !visit(m) {
			break
		}
	}
	return read, nil
}

// topic returns what is known of a topic and its groups, or pubsub.ErrNotFound.
func (b *Broker) topic(name string) (t topicRecord, groups []groupRecord, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, is := b.topics[name]
	if !is {
		return t, nil, fmt.Errorf("topic %q: %w", name, pubsub.ErrNotFound)
	}
	return t, slices.SortedFunc(maps.Values(b.groupsOf(name)), func(x, y groupRecord) int { return strings.Compare(x.Group, y.Group) }), nil
}

// Consumers implements pubsub.Inspector.
func (b *Broker) Consumers(topic string) (all []pubsub.Consumer) {
	b.mu.Lock()
	streams := slices.Collect(maps.Keys(b.streams))
	b.mu.Unlock()
	for _, s := range streams {
		if !s.consumes(topic) {
			continue
		}
		s.mu.Lock()
		c := pubsub.Consumer{SubscribeOptions: s.opts, InFlight: len(s.inFlight), Paused: s.paused, Silent: s.silent}
		if c.InFlight > 0 {
			c.OldestSince = s.acks.Since()
		}
		s.mu.Unlock()
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, c pubsub.Consumer) int {
		return cmp.Or(strings.Compare(a.Group, c.Group), strings.Compare(a.Instance, c.Instance))
	})
	return all
}

// Events implements pubsub.Inspector. JetStream reads forwards only, so it looks for where the page begins first.
func (b *Broker) Events(ctx context.Context, topic string, before uint64, limit int) (events []pubsub.Event, next uint64, err error) {
	if _, _, err := b.topic(topic); err != nil {
		return nil, 0, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	subject := b.layout.subject("e", hash(topic), "*")
	last, err := b.readLast(ctx, subject)
	if err != nil || last == nil {
		return nil, 0, err
	}
	if before == 0 || before > last.Sequence {
		before = last.Sequence + 1
	}
	all, first, err := b.count(ctx, subject, 1)
	if err != nil || first == nil || first.Sequence >= before {
		return nil, 0, err
	}
	behind, _, err := b.count(ctx, subject, before)
	if err != nil {
		return nil, 0, err
	}
	from := first.Sequence
	if all > behind+uint64(limit) {
		// The first sequence from which on there are no more than limit before the page's end.
		from += uint64(sort.Search(int(before-first.Sequence), func(i int) bool {
			var n uint64
			if err == nil {
				n, _, err = b.count(ctx, subject, first.Sequence+uint64(i))
			}
			return n <= behind+uint64(limit)
		}))
		if err != nil {
			return nil, 0, err
		}
	}
	bytes, more := 0, from > first.Sequence
	for read := 1; read > 0 && from < before; {
		read, err = b.readMany(ctx, subject, from, limit, pageBytes, func(m *jetstream.RawStreamMsg) bool {
			if from = m.Sequence + 1; from > before {
				return false
			}
			events = append(events, eventOf(topic, m.Sequence, m.Header, m.Data))
			bytes += len(m.Data)
			for bytes > pageBytes && len(events) > 1 {
				bytes -= len(events[0].Data)
				events, more = events[1:], true
			}
			return true
		})
		if err != nil {
			return nil, 0, err
		}
	}
	slices.Reverse(events)
	if n := len(events); more && n > 0 {
		next = events[n-1].Sequence
	}
	return events, next, nil
}
