package natsbroker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

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

// messagesPage is how many messages are read at a time.
const messagesPage = 500

// messages are those of a subject after a sequence. It ends with an error, if any.
func (b *Broker) messages(ctx context.Context, subject string, after uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		if err := b.walk(ctx, subject, after+1, messagesPage, func(m *jetstream.RawStreamMsg) (bool, error) { return yield(m, nil), nil }); err != nil {
			yield(nil, err)
		}
	}
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

// soon is when a retry comes by itself, and is asked for no more: who has got it by then would have it taken away, by a process
// that does not know it yet.
const soon = 2 * requestTimeout

// RetryNow implements pubsub.Inspector. The servers take it for the answer of whoever had the event last.
func (b *Broker) RetryNow(ctx context.Context, topic, group string, sequence uint64) error {
	return b.onRetry(ctx, topic, group, sequence, func(ctx context.Context, d *delivery) (bool, error) {
		h := d.history
		left := h.Due.Sub(b.clock.Now())
		if left < soon {
			return true, nil
		}
		ctx, cancel := context.WithTimeout(ctx, left-soon/2)
		defer cancel()
		h.Due = b.clock.Now()
		if stored, err := b.storeHistory(ctx, d, h); err != nil || !stored {
			return stored, err
		}
		return true, b.putOff(ctx, d, h)
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
