package natsbroker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// publishers is how many batches are on their way at once.
	publishers = 2
	// maxBatch is the messages of a batch that servers take by default (jetstream.limits.batch.max_msgs).
	maxBatch = 1000
	// maxBatchBytes keeps one batch from holding up the next for long.
	maxBatchBytes = 8 << 20
	// maxQueued bounds the calls that wait for a batch.
	maxQueued = 4096
)

// publish is one call's part in a batch, which it is in as a whole.
type publish struct {
	events []*newEvent
	done   chan error
	// failed is why the last try was not confirmed.
	failed atomic.Pointer[error]
}

// newEvent is stored with its key, unless that is there already.
type newEvent struct {
	key       string // subject; empty: it is not deduplicated
	messages  []*nats.Msg
	duplicate bool
}

func (p *publish) size() (messages, bytes int) {
	for _, e := range p.events {
		messages += len(e.messages)
		for _, m := range e.messages {
			bytes += m.Size()
		}
	}
	return messages, bytes
}

// Publish implements pubsub.Service.
func (b *Broker) Publish(ctx context.Context, topic string, messages []pubsub.Message, opts pubsub.PublishOptions) []error {
	now := b.clock.Now()
	entries, _, outcomes := pubsub.NewEntries(topic, messages, opts, now)
	if len(entries) == 0 {
		return outcomes
	}
	fail := func(err error) []error {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the nats servers have not confirmed it within %s, and it may be stored; /readyz says whether they can be reached: %w", b.opts.Timeout, err)
		}
		for i := range outcomes {
			if outcomes[i] == nil {
				outcomes[i] = fmt.Errorf("publish to topic %q: %w", topic, err)
			}
		}
		return outcomes
	}
	if b.isClosed() {
		return fail(pubsub.ErrClosed)
	}
	if 2*len(entries) > maxBatch {
		return fail(invalid.New("bulk publish", fmt.Sprintf("of %d events", len(entries)), fmt.Sprintf("at most %d events in one call with engine nats, whose batches hold %d messages", maxBatch/2, maxBatch)))
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	keyed, nameless := false, false
	p := &publish{done: make(chan error, 1)}
	for i := range entries {
		keyed = keyed || entries[i].Event.PartitionKey != ""
		nameless = nameless || entries[i].DedupKey == nil
		p.events = append(p.events, b.newEvent(&entries[i]))
	}
	if err := b.ensureTopic(ctx, topicRecord{Topic: topic, MaxAge: opts.Limits.MaxAge, Keyed: keyed}, true); err != nil {
		return fail(err)
	}
	err := b.checkRoom(ctx, p, opts.Limits.MaxBytes)
	if errors.Is(err, pubsub.ErrTopicFull) {
		// Duplicates take no room.
		if left, unknownErr := b.unknown(ctx, p.events); unknownErr == nil && len(left) == 0 {
			err = nil
		}
	}
	if err != nil {
		return fail(err)
	}
	select {
	case b.publishes <- p:
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	select {
	case err = <-p.done:
	case <-ctx.Done():
		if err = ctx.Err(); p.failed.Load() != nil {
			err = fmt.Errorf("%w; the last try: %v", err, *p.failed.Load())
		}
	case <-b.ctx.Done():
		err = pubsub.ErrClosed
	}
	if err != nil {
		return fail(err)
	}
	b.counting.Lock()
	counts := b.topicCounts[topic]
	for _, e := range p.events {
		if e.duplicate {
			counts.Duplicates++
		} else {
			counts.Published++
			b.opts.Totals.Published.Add(1)
		}
	}
	b.topicCounts[topic] = counts
	b.counting.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, warned := b.warned[topic]; nameless && opts.WantsID() && !warned {
		b.warned[topic] = struct{}{}
		b.log.Warn(pubsub.NoIDWarning, "topic", topic)
	}
	return outcomes
}

// newEvent makes the messages of an event.
func (b *Broker) newEvent(e *pubsub.Entry) *newEvent {
	event := b.publishMessage(&e.Event)
	if e.DedupKey == nil {
		return &newEvent{messages: []*nats.Msg{event}}
	}
	id := b.idMessage(pubsub.NewDedupHash(e.Event.Topic, e.DedupKey), e.DedupWindow)
	return &newEvent{key: id.Subject, messages: []*nats.Msg{id, event}}
}

// publishMessage is an event in its topic, or the schedule that brings it there.
func (b *Broker) publishMessage(e *pubsub.Event) *nats.Msg {
	subject := b.layout.subject("e", hash(e.Topic), partitionOf(e.PartitionKey))
	event := eventMessage(subject, e)
	if at := e.DeliverAt; !at.IsZero() {
		event.Subject = b.layout.subject("s", hash(e.Topic), nuid.Next())
		event.Header[headerSchedule] = []string{"@at " + at.UTC().Format("2006-01-02T15:04:05.999999999Z07:00")}
		event.Header[headerScheduleTarget] = []string{subject}
	}
	return event
}

// idMessage remembers the id of an event, unless it is remembered.
func (b *Broker) idMessage(id pubsub.DedupHash, window time.Duration) *nats.Msg {
	return &nats.Msg{Subject: b.layout.subject("d", hex.EncodeToString(id[:])), Header: nats.Header{
		headerExpected: {"0"}, headerTTL: {ttlText(window)},
	}}
}

// publishLoop collects what waits into one batch: there is no timer, the next batch forms while the last one is stored.
func (b *Broker) publishLoop() {
	var next *publish
	for {
		if next == nil {
			select {
			case next = <-b.publishes:
			case <-b.ctx.Done():
				return
			}
		}
		batch := []*publish{next}
		messages, bytes := next.size()
		next = nil
	more:
		for {
			select {
			case p := <-b.publishes:
				m, n := p.size()
				if messages+m > maxBatch || bytes+n > maxBatchBytes {
					next = p
					break more
				}
				messages, bytes = messages+m, bytes+n
				batch = append(batch, p)
			default:
				break more
			}
		}
		err := b.commit(batch)
		for _, p := range batch {
			p.done <- err
		}
	}
}

// commit stores what is new of the batch in one step.
func (b *Broker) commit(batch []*publish) error {
	ctx, cancel := b.bounded(b.ctx)
	defer cancel()
	var left []*newEvent
	seen := map[string]bool{}
	for _, p := range batch {
		for _, e := range p.events {
			if e.duplicate = seen[e.key] && e.key != ""; !e.duplicate {
				left = append(left, e)
			}
			seen[e.key] = true
		}
	}
	for tries := 0; len(left) > 0; tries++ {
		var messages []*nats.Msg
		for _, e := range left {
			messages = append(messages, e.messages...)
		}
		err := b.store(ctx, messages...)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, errConflict) && isRefusal(err), ctx.Err() != nil:
			return err
		}
		failed := b.orUnreachable(err)
		for _, p := range batch {
			p.failed.Store(&failed)
		}
		// Somebody else's, or our own from a try that was not confirmed: both are stored.
		if left, err = b.unknown(ctx, left); err != nil || tries > 0 {
			select {
			case <-b.clock.After(min(retryPause, retryPause/8<<min(tries, 3))):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// unknown returns those whose key is not there. What any replica has is stored for good; one that lags behind is asked
// again.
func (b *Broker) unknown(ctx context.Context, events []*newEvent) ([]*newEvent, error) {
	var keys []string
	for _, e := range events {
		if e.key != "" {
			keys = append(keys, e.key)
		}
	}
	if len(keys) == 0 {
		return events, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	there := map[string]bool{}
	found, err := jetstreamext.GetLastMsgsFor(ctx, b.js, b.layout.stream, keys)
	if err != nil {
		return events, err
	}
	for m, err := range found {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return events, err
		}
		there[m.Subject] = true
	}
	var left []*newEvent
	for _, e := range events {
		if e.duplicate = there[e.key]; !e.duplicate {
			left = append(left, e)
		}
	}
	return left, nil
}
