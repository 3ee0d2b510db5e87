package natsbroker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pageBytes bounds a page of events.
const pageBytes = 4 << 20

// count counts the messages of a subject from a sequence on, and says what the first is; a replica may lag behind in it.
func (b *Broker) count(ctx context.Context, subject string, from uint64) (n uint64, first *jetstream.RawStreamMsg, err error) {
	err = b.retry(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
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
		return 0, err
	}
	for m, err := range found {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return read, err
		}
		read++
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
		if s.opts.Topic != topic && !(pubsub.IsPattern(s.opts.Topic) && pubsub.Matches(s.opts.Topic, topic)) {
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

// watch is a pubsub.Watch of a Broker.
type watch struct {
	consuming jetstream.ConsumeContext
	events    chan pubsub.Event
	missed    atomic.Uint64
}

// headerScheduler stands in an event that was held back, in place of the time when it was due.
const headerScheduler = "Nats-Scheduler"

// Watch implements pubsub.Inspector. It sees what all processes publish.
func (b *Broker) Watch(ctx context.Context, topic string) (pubsub.Watch, error) {
	consumer, err := b.js.OrderedConsumer(ctx, b.layout.stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{b.layout.subject("e", hash(topic), "*"), b.layout.subject("s", hash(topic), "*")},
		DeliverPolicy:  jetstream.DeliverNewPolicy,
	})
	if err != nil {
		return nil, fmt.Errorf("watch topic %q: %w", topic, err)
	}
	w := &watch{events: make(chan pubsub.Event, pubsub.WatchBuffer)}
	w.consuming, err = consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil || m.Headers().Get(headerScheduler) != "" {
			return // it was seen when it was published
		}
		sequence := meta.Sequence.Stream
		if b.layout.parts(m.Subject())[0] == "s" {
			sequence = 0
		}
		select {
		case w.events <- eventOf(topic, sequence, m.Headers(), m.Data()):
		default:
			w.missed.Add(1)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch topic %q: %w", topic, err)
	}
	return w, nil
}

// Events implements pubsub.Watch.
func (w *watch) Events() <-chan pubsub.Event { return w.events }

// Missed implements pubsub.Watch.
func (w *watch) Missed() uint64 { return w.missed.Swap(0) }

// Close implements pubsub.Watch.
func (w *watch) Close() {
	w.consuming.Stop()
	<-w.consuming.Closed()
}

// standing is where an event stands for a group, as the servers know it.
type standing struct {
	group groupRecord
	pubsub.GroupTrace
	// record is the history, at the sequence at; zero: there is none.
	record historyRecord
	at     uint64
}

// Trace implements pubsub.Inspector. What is in flight in another process cannot be told from what is handled there, unless
// its group takes one event at a time.
func (b *Broker) Trace(ctx context.Context, topic string, sequence uint64) (t pubsub.Trace, err error) {
	_, groups, err := b.topic(topic)
	if err != nil {
		return t, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	stored, partition, err := b.event(ctx, topic, sequence)
	if err != nil {
		return t, err
	}
	redrivenBy := ""
	if stored != nil {
		event := eventOf(topic, sequence, stored.header, stored.Data)
		t.Event = &event
		if parts := b.layout.parts(stored.Subject); parts[0] == "r" {
			redrivenBy = parts[1]
		}
	}
	for _, g := range groups {
		if redrivenBy != "" && redrivenBy != groupHash(topic, g.Group) {
			continue
		}
		s, letter, err := b.standing(ctx, topic, g, sequence)
		if err != nil {
			return t, err
		}
		if s.State == "" && t.Event != nil {
			if s.State, err = b.undelivered(ctx, topic, g, partition, sequence, redrivenBy != ""); err != nil {
				return t, err
			}
		}
		if letter != nil && t.Event == nil {
			t.Event = &letter.Event
		}
		if s.State != "" {
			t.Groups = append(t.Groups, s.GroupTrace)
		}
	}
	if t.Event == nil && len(t.Groups) == 0 {
		return t, fmt.Errorf("event %d of topic %q is not kept, nor a retry or a dead letter of a group: %w", sequence, topic, pubsub.ErrNotFound)
	}
	return t, nil
}

// event reads an event of a topic, or a redriven one of its groups, by its sequence; nil: it is not kept.
func (b *Broker) event(ctx context.Context, topic string, sequence uint64) (m *stored, partition string, err error) {
	if m, err = b.readSequence(ctx, sequence); err != nil || m == nil {
		return nil, "", err
	}
	parts := b.layout.parts(m.Subject)
	if parts[0] == "e" && parts[1] == hash(topic) || parts[0] == "r" && eventOf("", 0, m.header, nil).Topic == topic {
		return m, parts[2], nil
	}
	return nil, "", nil
}

// standing looks for what a group has written down of an event. The State is empty if that is nothing.
func (b *Broker) standing(ctx context.Context, topic string, g groupRecord, sequence uint64) (s standing, letter *pubsub.DeadLetter, err error) {
	s.group, s.Group = g, g.Group
	name, number := groupHash(topic, g.Group), sequenceText(sequence)
	dead, err := b.readLast(ctx, b.layout.subject("x", name, number))
	if err != nil {
		return s, nil, err
	}
	if dead != nil {
		if d, is := b.deadLetter(dead.Subject, dead.Sequence, dead.header, dead.Data); is {
			s.State, s.History, s.DeadLetter = pubsub.EventDead, d.History, d.ID
			return s, &d, nil
		}
	}
	history, err := b.readLast(ctx, b.layout.subject("h", name, number))
	if err != nil {
		return s, nil, err
	}
	if history != nil && json.Unmarshal(history.Data, &s.record) == nil && !s.record.Ended {
		s.at = history.Sequence
		s.State, s.History, s.Due = pubsub.EventRetrying, s.record.History, s.record.Due
	}
	if b.has(topic, g.Group, sequence) {
		s.State = pubsub.EventInFlight
	}
	return s, nil, nil
}

// has reports whether this process has the event in flight for the group.
func (b *Broker) has(topic, group string, sequence uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d := range b.inFlight {
		if d.consumer.topic == topic && d.consumer.group == group && d.Event.Sequence == sequence {
			return true
		}
	}
	return false
}

// undelivered says where an event stands of which a group has written nothing down.
func (b *Broker) undelivered(ctx context.Context, topic string, g groupRecord, partition string, sequence uint64, redriven bool) (pubsub.EventState, error) {
	waiting := pubsub.EventWaiting
	if redriven {
		waiting = pubsub.EventRedriven
	}
	c := consumer{topic, g.Group, partition}
	if g.Ordered {
		c.partition = allPartition
	}
	info, err := b.info(ctx, c)
	switch {
	case err != nil:
		return "", err
	case info == nil && sequence <= g.After:
		return pubsub.EventHandled, nil
	case info == nil || sequence > info.Delivered.Stream:
		return waiting, nil
	case sequence <= info.AckFloor.Stream || info.NumAckPending == 0:
		return pubsub.EventHandled, nil
	case c.partition == noPartition:
		return pubsub.EventUnknown, nil
	case sequence == info.Delivered.Stream:
		return pubsub.EventInFlight, nil
	}
	return pubsub.EventHandled, nil
}

// Retries implements pubsub.Inspector: first the retries of each group in the order in which they were written down, then
// what was redriven and waits. The Order of a place is the sequence that the page ends at.
func (b *Broker) Retries(ctx context.Context, topic string, from pubsub.RetryPlace, limit int) (retries []pubsub.GroupRetry, next pubsub.RetryPlace, err error) {
	t, groups, err := b.topic(topic)
	if err != nil {
		return nil, next, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	place := from
	// add takes what a message says, and reports whether there was room for it.
	add := func(m *jetstream.RawStreamMsg, retry func() (*pubsub.GroupRetry, error)) (bool, error) {
		if len(retries) == limit {
			next = place
			return false, nil
		}
		r, err := retry()
		if err != nil {
			return false, err
		}
		place.Key.Order = int64(m.Sequence)
		if r != nil {
			retries = append(retries, *r)
		}
		return true, nil
	}
	for _, g := range groups {
		if g.Group < from.Group {
			continue
		}
		if g.Group != from.Group {
			place = pubsub.RetryPlace{Group: g.Group}
		}
		if !place.Key.Redriven {
			err := b.walk(ctx, b.layout.subject("h", groupHash(topic, g.Group), "*"), uint64(place.Key.Order)+1, limit+1, func(m *jetstream.RawStreamMsg) (bool, error) {
				return add(m, func() (*pubsub.GroupRetry, error) { return b.retryOf(ctx, topic, g.Group, m) })
			})
			if err != nil || next != (pubsub.RetryPlace{}) {
				return retries, next, err
			}
			place.Key = pubsub.RetryKey{Redriven: true}
		}
		delivered := map[string]uint64{}
		for _, c := range consumersOf(t, g.Group, g.Ordered) {
			info, err := b.info(ctx, c)
			if err != nil {
				return nil, next, err
			}
			if info != nil {
				delivered[c.partition] = info.Delivered.Stream
			}
		}
		err := b.walk(ctx, b.layout.subject("r", groupHash(topic, g.Group), "*"), uint64(place.Key.Order)+1, limit+1, func(m *jetstream.RawStreamMsg) (bool, error) {
			return add(m, func() (*pubsub.GroupRetry, error) {
				partition := b.layout.parts(m.Subject)[2]
				if g.Ordered {
					partition = allPartition
				}
				if m.Sequence <= delivered[partition] {
					return nil, nil
				}
				r := pubsub.GroupRetry{Group: g.Group}
				r.Event = eventOf(topic, m.Sequence, m.Header, m.Data)
				r.Key = pubsub.RetryKey{Redriven: true, Order: int64(m.Sequence), Sequence: m.Sequence}
				r.History = givenHistory(m.Header).History
				return &r, nil
			})
		})
		if err != nil || next != (pubsub.RetryPlace{}) {
			return retries, next, err
		}
	}
	return retries, next, nil
}

// walk is readMany in pages, until visit returns false or an error, or there are no more.
func (b *Broker) walk(ctx context.Context, subject string, from uint64, page int, visit func(m *jetstream.RawStreamMsg) (bool, error)) error {
	for ended := false; !ended; {
		var visitErr error
		read, err := b.readMany(ctx, subject, from, page, pageBytes, func(m *jetstream.RawStreamMsg) bool {
			from = m.Sequence + 1
			var more bool
			more, visitErr = visit(m)
			ended = !more || visitErr != nil
			return !ended
		})
		if err = cmp.Or(err, visitErr); err != nil {
			return err
		}
		ended = ended || read == 0
	}
	return nil
}

// retryOf makes a retry of a history; nil: the event has ended.
func (b *Broker) retryOf(ctx context.Context, topic, group string, m *jetstream.RawStreamMsg) (*pubsub.GroupRetry, error) {
	var h historyRecord
	sequence, err := strconv.ParseUint(b.layout.parts(m.Subject)[2], 10, 64)
	if err != nil || json.Unmarshal(m.Data, &h) != nil || h.Ended {
		return nil, nil
	}
	event, _, err := b.event(ctx, topic, sequence)
	if err != nil || event == nil {
		return nil, err
	}
	r := pubsub.GroupRetry{Group: group, InFlight: b.has(topic, group, sequence)}
	r.Event, r.History = eventOf(topic, sequence, event.header, event.Data), h.History
	r.Key = pubsub.RetryKey{Order: h.Due.UnixNano(), Sequence: sequence}
	return &r, nil
}

// waiting returns the retry of an event that waits for its time, as a delivery that nobody has.
func (b *Broker) waiting(ctx context.Context, topic, group string, sequence uint64) (*delivery, error) {
	_, groups, err := b.topic(topic)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(groups, func(g groupRecord) bool { return g.Group == group })
	missing := fmt.Errorf("group %q has no retry of event %d of topic %q: %w", group, sequence, topic, pubsub.ErrNotFound)
	if at < 0 {
		return nil, missing
	}
	s, _, err := b.standing(ctx, topic, groups[at], sequence)
	if err != nil {
		return nil, err
	}
	event, partition, err := b.event(ctx, topic, sequence)
	switch {
	case err != nil:
		return nil, err
	case event == nil || s.at == 0:
		return nil, missing
	case s.State != pubsub.EventRetrying || !s.record.Due.After(b.clock.Now()) || s.record.Reply == "":
		return nil, fmt.Errorf("event %d of topic %q for group %q: %w", sequence, topic, group, pubsub.ErrInFlight)
	}
	if groups[at].Ordered {
		partition = allPartition
	}
	d := &delivery{
		broker: b, consumer: consumer{topic, group, partition}, known: true, history: s.record, historySequence: s.at,
		reply: s.record.Reply, header: event.header.Get(headerEvent),
	}
	d.Event = eventOf(topic, sequence, event.header, event.Data)
	return d, nil
}

// RetryNow implements pubsub.Inspector. The servers take it for the answer of whoever had the event last.
func (b *Broker) RetryNow(ctx context.Context, topic, group string, sequence uint64) error {
	return b.onRetry(ctx, topic, group, sequence, func(ctx context.Context, d *delivery) (bool, error) {
		h := d.history
		h.Due = b.clock.Now()
		if stored, err := b.storeHistory(ctx, d, h); err != nil || !stored {
			return stored, err
		}
		return true, b.confirm(ctx, d, nak(0))
	})
}

// SkipRetry implements pubsub.Inspector.
func (b *Broker) SkipRetry(ctx context.Context, topic, group string, sequence uint64) error {
	return b.onRetry(ctx, topic, group, sequence, func(ctx context.Context, d *delivery) (bool, error) {
		stored, err := b.bury(ctx, d, pubsub.Settlement{
			Outcome: pubsub.Dead, History: d.history.History, Reason: pubsub.ReasonSkipped, At: b.clock.Now(),
		})
		if err != nil || !stored {
			return stored, err
		}
		b.countGroup(d.group(), func(c *pubsub.GroupCounts) { c.DeadLettered[pubsub.ReasonSkipped]++ })
		// What is missing from here on, whoever gets the event does.
		if err := b.confirm(ctx, d, ackText); err != nil {
			return true, err
		}
		return true, b.purge(ctx, d.historySubject(), 0)
	})
}

// onRetry ends a retry as end says, which reports false if somebody was faster.
func (b *Broker) onRetry(ctx context.Context, topic, group string, sequence uint64, end func(context.Context, *delivery) (bool, error)) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	d, err := b.waiting(ctx, topic, group, sequence)
	if err != nil {
		return err
	}
	ours, err := end(ctx, d)
	if err == nil && !ours {
		err = fmt.Errorf("event %d of topic %q for group %q: %w", sequence, topic, group, pubsub.ErrInFlight)
	}
	return err
}

// ageOf is when a message was stored.
func ageOf(m *jetstream.RawStreamMsg) *time.Time {
	if m == nil {
		return nil
	}
	return &m.Time
}
