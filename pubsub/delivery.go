package pubsub

import (
	"context"
	"time"
)

// Delivery is one event in flight: handed to an app instance that has not answered yet. Its first Ack or Nack counts;
// what comes after the delivery has ended changes nothing, but for an Ack after its ackWait: see Subscription.
type Delivery struct {
	Event Event
	// Count says which delivery of the event to its group this is, from 1.
	Count int
	// Number says which delivery of its stream this is, from 1.
	Number uint64
	Acknowledger
}

// Acknowledger ends the delivery that it was made for. Its methods may be called from any goroutine.
type Acknowledger interface {
	// Context ends when the delivery does: it was acked or nacked, its ackWait ran out, or its stream was closed.
	Context() context.Context
	// Ack ends the event for the group. It does not wait until that is kept: a crash right after it may deliver the event
	// again.
	Ack()
	// Nack counts the delivery as failed for the given reason: the event is delivered again after its wait, or goes to the
	// dead letters when it was delivered as often as allowed.
	Nack(reason string)
	// Bury ends the event for the group as a dead letter, for a reason that no further delivery would mend.
	Bury(reason Reason, text string)
}

// delivery is a Delivery of a Broker.
type delivery struct {
	Delivery

	// stream is nil until the event goes out.
	stream *subscription
	group  *group
	// retry is what the engine knows the event by; nil: it comes from the log.
	retry   *RetryKey
	history History
	// after is the end of the log when the event was redriven.
	after uint64
	// agesAt is that of its Retry.
	agesAt time.Time
	// bytes is what the delivery takes of the budget.
	bytes int
	// again says that the event was delivered before, though that does not count.
	again bool

	// The broker's lock guards the rest. since is when Next returned the delivery; zero: it has not. ctx is nil until somebody
	// asks for it.
	since  time.Time
	ended  bool
	ctx    context.Context
	cancel context.CancelFunc
}

// isRetrying reports whether the event has failed before, and was not redriven since.
func (d *delivery) isRetrying() bool { return d.retry != nil && !d.retry.Redriven }

// Context implements Acknowledger.
func (d *delivery) Context() context.Context {
	d.group.broker.mu.Lock()
	defer d.group.broker.mu.Unlock()
	if d.ctx == nil {
		d.ctx, d.cancel = context.WithCancel(context.Background())
		if d.ended {
			d.cancel()
		}
	}
	return d.ctx
}

// Ack implements Acknowledger.
func (d *delivery) Ack() { d.stream.Ack(d.Number) }

// Nack implements Acknowledger.
func (d *delivery) Nack(reason string) { d.stream.Nack(d.Number, reason) }

// Bury implements Acknowledger.
func (d *delivery) Bury(reason Reason, text string) {
	d.group.broker.mu.Lock()
	defer d.group.broker.mu.Unlock()
	d.finish(Buried(d.history, reason, text, d.group.broker.clock.Now()))
}

func (d *delivery) failed(reason string) Settlement {
	return d.stream.opts.Failed(d.history, reason, d.group.broker.clock.Now())
}

// finish ends the delivery, unless it has ended, and lets others go out. It is called with the broker's lock held.
func (d *delivery) finish(end Settlement) {
	if d.ended {
		return
	}
	d.group.counts.Answered(end.Outcome, d.since, d.group.broker.clock.Now())
	d.stream.remove(d)
	d.group.finish(d, end)
	d.stream.slotFreed()
	d.group.deliver()
}
