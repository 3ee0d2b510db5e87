package natsbroker

import (
	"context"
	"errors"
	"maps"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// sweepLoop cleans up in one process at a time. Nothing rests on it that there is one only: all that a sweep does may be
// done twice.
func (b *Broker) sweepLoop() {
	me := nuid.Next()
	defer b.giveUpTurn(me)
	for b.pause(b.opts.SweepInterval) {
		if err := b.checkStream(b.ctx); err != nil {
			if errors.Is(err, errAnotherStream) {
				b.logFailure("nothing can be published or delivered", err)
			}
			continue // no server answers, which is told where it matters
		}
		if b.isMyTurn(me) {
			b.logFailure("what has ended could not be cleaned away", b.sweep(b.ctx))
		}
	}
}

// isMyTurn takes the turn or keeps it; it ends by itself.
func (b *Broker) isMyTurn(me string) bool {
	ctx, cancel := context.WithTimeout(b.ctx, requestTimeout)
	defer cancel()
	subject := b.layout.subject("l")
	held, err := b.readLast(ctx, subject)
	if err != nil || held != nil && string(held.Data) != me {
		return false
	}
	expected := uint64(0)
	if held != nil {
		expected = held.Sequence
	}
	return b.store(ctx, &nats.Msg{Subject: subject, Data: []byte(me), Header: nats.Header{
		headerExpected: {sequenceText(expected)}, headerRollup: {"sub"}, headerTTL: {ttlText(3 * b.opts.SweepInterval)},
	}}) == nil
}

// giveUpTurn lets another process sweep at once. One that cannot be told so waits.
func (b *Broker) giveUpTurn(me string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	subject := b.layout.subject("l")
	if held, err := b.readLast(ctx, subject); err == nil && held != nil && string(held.Data) == me {
		_ = b.purge(ctx, subject, 0)
	}
}

func (b *Broker) sweep(ctx context.Context) (all error) {
	b.mu.Lock()
	topics := make([]topicRecord, 0, len(b.topics))
	for _, t := range b.topics {
		topics = append(topics, t)
	}
	b.mu.Unlock()
	for _, t := range topics {
		b.mu.Lock()
		groups := b.groupsOf(t.Topic)
		b.mu.Unlock()
		if t.MaxAge > 0 {
			all = errors.Join(all, b.buryAged(ctx, t, groups))
		}
		all = errors.Join(all, b.trim(ctx, t, groups))
	}
	return all
}

// partitions of a topic's events.
func partitions() []string {
	all := []string{noPartition}
	for i := range Partitions {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// trim removes the events that every group is done with, partition by partition, and the histories that were left behind.
func (b *Broker) trim(ctx context.Context, t topicRecord, groups map[string]groupRecord) error {
	if len(groups) == 0 {
		return nil
	}
	parts := partitions()
	if !t.Keyed {
		parts = parts[:1]
	}
	least := map[string]uint64{}
	for _, g := range groups {
		done := uint64(math.MaxUint64)
		for i, p := range parts {
			c := consumer{t.Topic, g.Group, p}
			if g.Ordered {
				c.partition = allPartition
			}
			floor, err := b.floor(ctx, c)
			if err != nil {
				return err
			}
			done = min(done, floor)
			if have, ok := least[p]; !ok || floor < have {
				least[p] = floor
			}
			if g.Ordered && i > 0 {
				continue
			}
			redriven := p
			if g.Ordered {
				redriven = "*"
			}
			if err := b.purgeDone(ctx, b.layout.subject("r", groupHash(t.Topic, g.Group), redriven), floor); err != nil {
				return err
			}
		}
		if err := b.sweepHistories(ctx, groupHash(t.Topic, g.Group), done); err != nil {
			return err
		}
	}
	// A group that is not known yet is owed what the others were done with before.
	sure, err := b.knowsGroups(ctx)
	b.mu.Lock()
	sure = sure && maps.Equal(groups, b.groupsOf(t.Topic))
	b.mu.Unlock()
	if err != nil || !sure {
		return err
	}
	for p, floor := range least {
		if err := b.purgeDone(ctx, b.layout.subject("e", hash(t.Topic), p), floor); err != nil {
			return err
		}
	}
	return nil
}

// purgeDone removes the messages of a subject up to a sequence that consumers are done with. What was removed before is not
// asked for again, which the servers would write down each time. Nor is what is before the first sequence: some servers would
// remove all.
func (b *Broker) purgeDone(ctx context.Context, subject string, floor uint64) error {
	if floor == 0 || floor == b.purged[subject] {
		return nil
	}
	if err := b.purge(ctx, subject, floor+1); err != nil {
		return err
	}
	b.purged[subject] = floor
	return nil
}

// sweepHistories removes those of events that a group is done with, which stay behind if a process crashes.
func (b *Broker) sweepHistories(ctx context.Context, group string, done uint64) error {
	info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(b.layout.subject("h", group, "*")))
	if err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		if sequence, err := strconv.ParseUint(b.layout.parts(subject)[2], 10, 64); err == nil && sequence <= done {
			if err := b.purge(ctx, subject, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// floor is the sequence up to which a consumer is done; zero: it is not there yet.
func (b *Broker) floor(ctx context.Context, c consumer) (uint64, error) {
	info, err := b.info(ctx, c)
	if info == nil {
		return 0, err
	}
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return info.Delivered.Stream, nil
	}
	return info.AckFloor.Stream, nil
}

// info returns nil if there is no such consumer.
func (b *Broker) info(ctx context.Context, c consumer) (info *jetstream.ConsumerInfo, err error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	err = b.ask(ctx, func(ctx context.Context) error {
		found, err := b.stream.Consumer(ctx, c.name())
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil
		}
		if err == nil {
			info = found.CachedInfo()
		}
		return err
	})
	return info, err
}

// buryAged makes dead letters of the events that are too old and that groups still owe, as a consumer of each group: what an
// app has in flight or what waits for a retry comes to it later, or to whoever delivers it. Without groups, they go.
func (b *Broker) buryAged(ctx context.Context, t topicRecord, groups map[string]groupRecord) error {
	before := b.clock.Now().Add(-t.MaxAge)
	if len(groups) == 0 {
		return b.dropAged(ctx, t, before)
	}
	for _, g := range groups {
		if g.Undecided {
			continue // its consumers cannot be made yet
		}
		for _, c := range consumersOf(t, g.Group, g.Ordered) {
			if aged, err := b.isHeadAged(ctx, c, before); err != nil {
				return err
			} else if !aged {
				continue
			}
			from, err := b.open(ctx, c)
			for buried := err == nil; buried && ctx.Err() == nil; {
				buried, err = b.buryNext(from, c)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// isHeadAged reports whether the first event that a consumer is not done with is too old.
func (b *Broker) isHeadAged(ctx context.Context, c consumer, before time.Time) (bool, error) {
	floor, err := b.floor(ctx, c)
	if err != nil {
		return false, err
	}
	for _, subject := range b.subjects(c) {
		head, err := b.readNext(ctx, subject, floor+1)
		if err != nil {
			return false, err
		}
		// Who redrives an event wants it delivered; a copied one is as old as it was.
		if head != nil && head.header.Get(headerRedriven) == "" && !eventOf("", 0, head.header, nil).PublishTime.After(before) {
			return true, nil
		}
	}
	return false, nil
}

// buryNext buries a consumer's next event, and reports false if there is none or it is not too old.
func (b *Broker) buryNext(from jetstream.Consumer, c consumer) (bool, error) {
	batch, err := from.FetchNoWait(1)
	if err != nil {
		return false, err
	}
	for m := range batch.Messages() {
		d := b.received(nil, c, m)
		switch {
		case d == nil:
		case d.known && d.history.Ended:
			b.settle(d, pubsub.Settlement{Outcome: pubsub.Acked})
			return true, nil
		case d.known && instant.Reached(b.agesAt(d), b.clock.Now()):
			b.settle(d, pubsub.Settlement{Outcome: pubsub.Dead, History: d.history.History, Reason: pubsub.ReasonMaxAge, At: b.clock.Now()})
			return true, nil
		default:
			b.putBack(d)
		}
	}
	return false, nil
}

// dropAged removes the aged events of a topic that no group consumes.
func (b *Broker) dropAged(ctx context.Context, t topicRecord, before time.Time) error {
	// A group that is not known yet is owed them.
	if known, err := b.knowsGroups(ctx); err != nil || !known {
		return err
	}
	subject := b.layout.subject("e", hash(t.Topic), "*")
	for from := uint64(1); ; {
		head, err := b.readNext(ctx, subject, from)
		if err != nil || head == nil || head.Time.After(before) {
			return err
		}
		if err := b.purge(ctx, head.Subject, head.Sequence+1); err != nil {
			return err
		}
		from = head.Sequence + 1
	}
}
