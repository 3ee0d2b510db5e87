package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// delivery is a Delivery of a Broker.
type delivery struct {
	pubsub.Delivery
	broker *Broker
	// stream is nil where the maintainer took the event.
	stream   *subscription
	consumer consumer
	// reply is where the server hears what becomes of the event, and header what is stored of it beside its data.
	reply, header string
	// history is what is known of earlier deliveries, if known, and stands in the message of that sequence; zero: there is
	// none.
	known           bool
	history         historyRecord
	historySequence uint64
	// heard is when the server heard last that the event is in flight. The broker's lock guards it.
	heard time.Time

	// The stream's lock guards the rest. since is when Next returned the delivery; ctx is nil until somebody asks for it.
	since time.Time
	ended bool
	// settled is closed once that is written down; nil: its ackWait has not run out, or its event is not to be delivered again.
	settled chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
}

// Context implements pubsub.Acknowledger.
func (d *delivery) Context() context.Context {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	if d.ctx == nil {
		d.ctx, d.cancel = context.WithCancel(context.Background())
		if d.ended {
			d.cancel()
		}
	}
	return d.ctx
}

// Ack implements pubsub.Acknowledger.
func (d *delivery) Ack() { d.stream.Ack(d.Number) }

// Nack implements pubsub.Acknowledger.
func (d *delivery) Nack(reason string) { d.stream.Nack(d.Number, reason) }

// Bury implements pubsub.Acknowledger.
func (d *delivery) Bury(reason pubsub.Reason, text string) {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	if !d.ended {
		d.stream.answer(d, pubsub.Buried(d.history.History, reason, text, d.broker.clock.Now()))
	}
}

func (d *delivery) failed(reason string) pubsub.Settlement {
	return d.stream.opts.Failed(d.history.History, reason, d.broker.clock.Now())
}

// bytes is what the delivery takes of the budget.
func (d *delivery) bytes() int { return len(d.header) + len(d.Event.Data) }

func (d *delivery) group() string { return groupHash(d.consumer.topic, d.consumer.group) }

func (d *delivery) historySubject() string {
	return d.broker.layout.subject("h", d.group(), sequenceText(d.Event.Sequence))
}

func (d *delivery) deadSubject() string {
	return d.broker.layout.subject("x", d.group(), sequenceText(d.Event.Sequence))
}

// settle tells the servers what became of a delivery: on a goroutine, no more than a stream may have in flight, or at once for
// the maintainer.
func (b *Broker) settle(d *delivery, s pubsub.Settlement) {
	b.settling(d, func(ctx context.Context) error {
		if s.Outcome != pubsub.Acked && b.isLost(d) {
			return nil
		}
		switch s.Outcome {
		case pubsub.Retried:
			h := historyRecord{History: s.History, Due: s.Due, Reply: d.reply}
			if stored, err := b.storeHistory(ctx, d, h); err != nil || !stored {
				return err
			}
			return b.putOff(ctx, d, h)
		case pubsub.Dead:
			if stored, err := b.bury(ctx, d, s); err != nil || !stored {
				return err
			}
			b.countGroup(d.group(), func(c *pubsub.GroupCounts) { c.DeadLettered[s.Reason]++ })
		case pubsub.Expired:
			b.countGroup(d.group(), func(c *pubsub.GroupCounts) { c.Expired++ })
		}
		if err := b.confirm(ctx, d, ackText); err != nil {
			return err
		}
		if d.historySequence > 0 || s.Outcome == pubsub.Dead {
			// One that stays behind is swept.
			return b.purge(ctx, d.historySubject(), 0)
		}
		return nil
	})
}

// isLost reports whether the server has given the event to somebody else, whose word counts: this process was stopped, or cut
// off, for too long.
func (b *Broker) isLost(d *delivery) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock.Since(d.heard) > serverAckWait
}

// settling runs what ends a delivery, and takes it out of flight then.
func (b *Broker) settling(d *delivery, end func(ctx context.Context) error) {
	settle := func() {
		// Beyond that, the server gives the event to somebody else, and so may we.
		ctx, cancel := context.WithTimeout(b.ctx, max(b.opts.Timeout, serverAckWait))
		defer cancel()
		b.logFailure("what became of an event could not be written down; it is delivered again", end(ctx),
			"topic", d.consumer.topic, "group", d.consumer.group, "sequence", d.Event.Sequence)
		b.mu.Lock()
		delete(b.inFlight, d)
		b.opts.Budget.Free(d.bytes())
		b.mu.Unlock()
		if d.stream != nil {
			d.stream.mu.Lock()
			d.stream.settled(d)
			d.stream.mu.Unlock()
		}
	}
	if d.stream == nil {
		settle()
		return
	}
	b.consuming.Go(settle)
}

// settleLate ends an event that was acknowledged after its ackWait, once it is written down that this ran out. The server takes
// that whoever has it by now, and what that one says changes nothing then.
func (b *Broker) settleLate(d *delivery) {
	b.consuming.Go(func() {
		<-d.settled
		ctx, cancel := context.WithTimeout(b.ctx, max(b.opts.Timeout, serverAckWait))
		defer cancel()
		err := b.confirm(ctx, d, ackText)
		if err == nil {
			err = b.purge(ctx, d.historySubject(), 0)
		}
		b.logFailure("an acknowledgement after ackWait could not be written down; the event is delivered again", err,
			"topic", d.consumer.topic, "group", d.consumer.group, "sequence", d.Event.Sequence)
	})
}

const ackText = "+ACK"

func nak(wait time.Duration) string {
	if wait <= 0 {
		return "-NAK"
	}
	return fmt.Sprintf(`-NAK {"delay": %d}`, wait)
}

// confirm answers the server, and waits until it has taken note.
func (b *Broker) confirm(ctx context.Context, d *delivery, answer string) error {
	return b.ask(ctx, func(ctx context.Context) error { return b.answer(ctx, d, answer) })
}

// putBack returns an event at once, uncounted.
func (b *Broker) putBack(d *delivery) {
	b.settling(d, func(ctx context.Context) error {
		return b.giveOn(ctx, d, time.Time{}, func(context.Context) (bool, error) { return true, nil })
	})
}

// putOff lets an event wait until it is due, as its history says. Before each further try, that is looked at: somebody may want
// the event now, since they saw it there; see RetryNow.
func (b *Broker) putOff(ctx context.Context, d *delivery, h historyRecord) error {
	text := marshal(h)
	return b.giveOn(ctx, d, h.Due, func(ctx context.Context) (bool, error) {
		found, err := b.readLast(ctx, d.historySubject())
		return found != nil && string(found.Data) == text, err
	})
}

// giveOn lets the server give the event to somebody once it is due. Each further try is made only if it is still wanted. Where no
// word comes from the server, it may have heard, and somebody else may have the event by now: then the next try asks for the event
// in serverAckWait at the earliest. Until that has passed, the server hears from whoever has it, and forgets the try.
func (b *Broker) giveOn(ctx context.Context, d *delivery, due time.Time, wanted func(ctx context.Context) (bool, error)) error {
	tried, atLeast := false, time.Duration(0)
	return b.ask(ctx, func(ctx context.Context) error {
		if tried {
			if still, err := wanted(ctx); !still || err != nil {
				return err
			}
		}
		tried = true
		err := b.answer(ctx, d, nak(max(due.Sub(b.clock.Now()), atLeast)))
		if errors.Is(err, context.DeadlineExceeded) {
			atLeast = serverAckWait
		}
		return err
	})
}

func (b *Broker) answer(ctx context.Context, d *delivery, text string) error {
	_, err := b.nc.RequestWithContext(ctx, d.reply, []byte(text))
	if errors.Is(err, nats.ErrNoResponders) {
		// The consumer has no leader just now, or was removed, and what it had in flight with it.
		if info, infoErr := b.info(ctx, d.consumer); info == nil && infoErr == nil {
			return b.purge(ctx, d.historySubject(), 0) // which whoever removed it may not have seen
		}
	}
	return err
}

// storeHistory writes the history of a delivery down; false: another process has delivered the event meanwhile, since this
// one was not heard of for serverAckWait, and its word counts.
func (b *Broker) storeHistory(ctx context.Context, d *delivery, h historyRecord) (bool, error) {
	text := marshal(h)
	return b.storeOnce(ctx, d, text, func() []*nats.Msg { return []*nats.Msg{b.historyMessage(d, text)} })
}

func (b *Broker) historyMessage(d *delivery, text string) *nats.Msg {
	return &nats.Msg{Subject: d.historySubject(), Data: []byte(text), Header: nats.Header{
		headerExpected: {sequenceText(d.historySequence)}, headerRollup: {"sub"},
	}}
}

// bury stores a dead letter and ends the history, in one step.
func (b *Broker) bury(ctx context.Context, d *delivery, s pubsub.Settlement) (bool, error) {
	text := marshal(historyRecord{History: s.History, Ended: true})
	return b.storeOnce(ctx, d, text, func() []*nats.Msg {
		letter := eventMessage(d.deadSubject(), &d.Event)
		if d.Event.Unreadable != "" {
			letter.Header = nats.Header{headerEvent: {d.header}}
		}
		letter.Header[headerExpected] = []string{"0"}
		letter.Header[headerDeath] = []string{marshal(deathRecord{
			Group: d.consumer.group, Sequence: d.Event.Sequence, History: s.History, Reason: s.Reason, Time: s.At,
		})}
		return []*nats.Msg{letter, b.historyMessage(d, text)}
	})
}

// storeOnce stores messages of which one is the history with that text. After a conflict, the history tells whether they
// are stored; or the event is a dead letter already, and comes again since its consumer was deleted and made anew.
func (b *Broker) storeOnce(ctx context.Context, d *delivery, text string, messages func() []*nats.Msg) (bool, error) {
	for {
		err := b.retry(ctx, func(ctx context.Context) error { return b.store(ctx, messages()...) })
		if !errors.Is(err, errConflict) {
			d.historySequence = max(d.historySequence, 1)
			return err == nil, err
		}
		found, err := b.readLast(ctx, d.historySubject())
		switch {
		case err != nil:
			return false, err
		case found != nil && string(found.Data) == text:
			d.historySequence = found.Sequence
			return true, nil
		case found != nil && found.Sequence != d.historySequence, found == nil && d.historySequence > 0:
			return false, nil
		}
		if dead, err := b.readLast(ctx, d.deadSubject()); err != nil || dead != nil {
			return err == nil, err
		}
		// A message of a batch is on its way in.
		if !b.pauseRetry(ctx) {
			return false, ctx.Err()
		}
	}
}
