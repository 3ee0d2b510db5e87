package pubsub

import (
	"context"
	"strings"
)

// maxErrorBytes bounds the error text of an attempt.
const maxErrorBytes = 4096

// minInterruptions is how many it takes to make a dead letter: a single one may be a restart of the app.
const minInterruptions = 2

// Delivery is one event in an app instance's hands. Its first Ack or Nack counts; what comes after the delivery has
// ended changes nothing.
type Delivery struct {
	Event Event
	// Count says which delivery of the event to its group this is, from 1.
	Count int
	// Number says which delivery of its stream this is, from 1.
	Number uint64

	stream  *Subscription
	queue   *queue
	retry   *RetryKey
	history History
	// bytes is what the delivery takes of the budget.
	bytes int

	// The rest is guarded by the stream's lock. ctx is nil until somebody asks for it.
	ctx    context.Context
	cancel context.CancelFunc
	// inHand, before and behind are the hand's.
	inHand         bool
	before, behind *Delivery
}

// Context ends when the delivery does: it was acked or nacked, its ackWait ran out, or its stream was closed.
func (d *Delivery) Context() context.Context {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	if d.ctx == nil {
		d.ctx, d.cancel = context.WithCancel(context.Background())
		if !d.inHand {
			d.cancel()
		}
	}
	return d.ctx
}

// Ack ends the event for the group. It does not wait for the disk: a crash right after it may deliver the event again.
func (d *Delivery) Ack() {
	if d.stream.take(d) {
		d.queue.settle(d, Settlement{Outcome: Acked})
		d.stream.slotFreed(d.queue)
	}
}

// Nack counts the delivery as failed for the given reason: the event is delivered again after its wait, or goes to the
// dead letters when it was delivered as often as allowed.
func (d *Delivery) Nack(reason string) {
	if d.stream.take(d) {
		d.fail(reason)
	}
}

// Bury ends the event for the group as a dead letter, for a reason that no further delivery would mend.
func (d *Delivery) Bury(reason Reason, text string) {
	if d.stream.take(d) {
		now := d.queue.broker.clock.Now()
		history := d.history.failed(Attempt{At: now, Error: shortened(text)})
		d.queue.settle(d, Settlement{Outcome: Dead, History: history, Reason: reason, At: now})
		d.stream.slotFreed(d.queue)
	}
}

// fail settles a delivery that has left the stream's hands.
func (d *Delivery) fail(reason string) {
	opts := d.stream.opts
	now := d.queue.broker.clock.Now()
	history := d.history.failed(Attempt{At: now, Error: shortened(reason)})
	if opts.MaxDeliver > 0 && history.Deliveries >= opts.MaxDeliver {
		d.queue.settle(d, Settlement{Outcome: Dead, History: history, Reason: ReasonMaxDeliver, At: now})
	} else {
		wait := jittered(opts.BackOff.after(history.Deliveries))
		d.queue.settle(d, Settlement{Outcome: Retried, History: history, Due: now.Add(wait)})
	}
	d.stream.slotFreed(d.queue)
}

// interrupt settles a delivery over which its stream has ended.
func (d *Delivery) interrupt() {
	opts := d.stream.opts
	now := d.queue.broker.clock.Now()
	history := d.history.interrupted(now)
	if opts.MaxDeliver > 0 && history.Interruptions >= max(opts.MaxDeliver, minInterruptions) {
		d.queue.settle(d, Settlement{Outcome: Dead, History: history, Reason: ReasonInterrupted, At: now})
		return
	}
	wait := jittered(opts.BackOff.after(history.Deliveries + history.Interruptions))
	d.queue.settle(d, Settlement{Outcome: Retried, History: history, Due: now.Add(wait)})
}

func shortened(text string) string {
	if len(text) > maxErrorBytes {
		text = text[:maxErrorBytes] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}
