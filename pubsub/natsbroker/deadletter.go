package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// readDead is how many dead letters are read at a time, and readDeadBytes bounds them.
	readDead      = 64
	readDeadBytes = 8 << 20
	// markFor is how long a dead letter that was taken says by whom.
	markFor = "300s"
)

// deadLetter returns what a message holds; false: it is no dead letter, or was taken.
func (b *Broker) deadLetter(subject string, sequence uint64, header nats.Header, data []byte) (pubsub.DeadLetter, bool) {
	var r deathRecord
	if b.layout.parts(subject)[0] != "x" || json.Unmarshal([]byte(header.Get(headerDeath)), &r) != nil {
		return pubsub.DeadLetter{}, false
	}
	event := eventOf("", r.Sequence, header, data)
	return pubsub.DeadLetter{ID: sequence, Group: r.Group, Event: event, History: r.History, Reason: r.Reason, Time: r.Time}, true
}

// DeadLetters implements pubsub.Inspector.
func (b *Broker) DeadLetters(ctx context.Context, filter pubsub.DeadLetterFilter, scan int) (letters []pubsub.DeadLetter, next uint64, err error) {
	if filter.Limit <= 0 {
		filter.Limit = pubsub.DefaultPageSize
	}
	subject := b.layout.subject("x", ">")
	if filter.Topic != "" && filter.Group != "" {
		subject = b.layout.subject("x", groupHash(filter.Topic, filter.Group), "*")
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	scanned, after := 0, filter.After
	for read := 1; read > 0; {
		read, err = b.readMany(ctx, subject, after+1, readDead, readDeadBytes, func(m *jetstream.RawStreamMsg) bool {
			if len(letters) == filter.Limit || scan > 0 && scanned == scan {
				next = after
				return false
			}
			scanned, after = scanned+1, m.Sequence
			d, is := b.deadLetter(m.Subject, m.Sequence, m.Header, m.Data)
			if is && filter.SelectsGroup(d.Event.Topic, d.Group) && filter.SelectsTime(d.Time) && filter.SelectsReason(d.Reason) && filter.HasText(&d) {
				letters = append(letters, d)
			}
			return true
		})
		if err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		if next > 0 {
			break
		}
	}
	return letters, next, nil
}

// DeadLetter implements pubsub.Service.
func (b *Broker) DeadLetter(ctx context.Context, id uint64) (pubsub.DeadLetter, error) {
	d, _, err := b.readDeadLetter(ctx, id)
	return d, err
}

// readDeadLetter returns a dead letter and its subject.
func (b *Broker) readDeadLetter(ctx context.Context, id uint64) (d pubsub.DeadLetter, subject string, err error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	m, err := b.readSequence(ctx, id)
	if err != nil {
		return d, "", fmt.Errorf("dead letter %d: %w", id, err)
	}
	if m != nil {
		if d, is := b.deadLetter(m.Subject, m.Sequence, m.header, m.Data); is {
			return d, m.Subject, nil
		}
	}
	return d, "", fmt.Errorf("dead letter %d: %w", id, pubsub.ErrNotFound)
}

// Redrive implements pubsub.Service.
func (b *Broker) Redrive(ctx context.Context, ids []uint64) (moved []pubsub.DeadLetter, err error) {
	err = b.takeAll(ctx, ids, func(d *pubsub.DeadLetter) ([]*nats.Msg, bool) {
		b.mu.Lock()
		_, owed := b.groupsOf(d.Event.Topic)[d.Group]
		b.mu.Unlock()
		if !owed || d.Event.Unreadable != "" {
			return nil, false
		}
		subject := b.layout.subject("r", groupHash(d.Event.Topic, d.Group), partitionOf(d.Event.PartitionKey))
		m := eventMessage(subject, &d.Event)
		m.Header[headerRedriven] = []string{strconv.Itoa(d.History.Redriven + 1)}
		return []*nats.Msg{m}, true
	}, func(d pubsub.DeadLetter) {
		moved = append(moved, d)
		b.countGroup(groupHash(d.Event.Topic, d.Group), func(c *pubsub.GroupCounts) { c.Redriven++ })
	})
	if err != nil {
		return moved, fmt.Errorf("redrive: %w", err)
	}
	return moved, nil
}

// Purge implements pubsub.Service.
func (b *Broker) Purge(ctx context.Context, ids []uint64) (n int, err error) {
	err = b.takeAll(ctx, ids, func(*pubsub.DeadLetter) ([]*nats.Msg, bool) { return nil, true }, func(pubsub.DeadLetter) { n++ })
	if err != nil {
		return n, fmt.Errorf("purge: %w", err)
	}
	return n, nil
}

// takeAll takes dead letters, each once whoever else tries, and stores instead what with returns. taken gets those that
// this call took.
func (b *Broker) takeAll(ctx context.Context, ids []uint64, with func(*pubsub.DeadLetter) ([]*nats.Msg, bool), taken func(pubsub.DeadLetter)) error {
	for _, id := range ids {
		if err := b.boundedly(ctx, func(ctx context.Context) error { return b.takeDeadLetter(ctx, id, with, taken) }); err != nil {
			return err
		}
	}
	return nil
}

// takeDeadLetter is takeAll for one.
func (b *Broker) takeDeadLetter(ctx context.Context, id uint64, with func(*pubsub.DeadLetter) ([]*nats.Msg, bool), taken func(pubsub.DeadLetter)) error {
	d, subject, err := b.readDeadLetter(ctx, id)
	if errors.Is(err, pubsub.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	instead, may := with(&d)
	if !may {
		return nil
	}
	// The mark takes the dead letter's place, if that is there, and says who did it.
	mark := nuid.Next()
	ours, err := b.takeOnce(ctx, subject, mark, func() []*nats.Msg {
		return append([]*nats.Msg{{Subject: subject, Data: []byte(mark), Header: nats.Header{
			headerExpected: {sequenceText(id)}, headerRollup: {"sub"}, headerTTL: {markFor},
		}}}, instead...)
	}, id)
	if err != nil || !ours {
		return err
	}
	taken(d)
	// It would end by itself; until then it would be counted.
	if err := b.purge(ctx, subject, 0); err != nil {
		b.logFailure("the mark of a dead letter that was taken stays until it ends", err, "id", id)
	}
	return nil
}

func (b *Broker) takeOnce(ctx context.Context, subject, mark string, messages func() []*nats.Msg, id uint64) (bool, error) {
	for {
		err := b.retry(ctx, func(ctx context.Context) error { return b.store(ctx, messages()...) })
		if !errors.Is(err, errConflict) {
			return err == nil, err
		}
		found, err := b.readLast(ctx, subject)
		switch {
		case err != nil:
			return false, err
		case found == nil || found.Sequence != id:
			return found != nil && string(found.Data) == mark, nil
		}
		if !b.pauseRetry(ctx) {
			return false, ctx.Err()
		}
	}
}
