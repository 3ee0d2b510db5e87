package pubsub

import "context"

// Service is the publish and subscribe of one namespace: a Broker, or another that keeps the same promises elsewhere. Its
// methods may be called from any goroutine.
type Service interface {
	// Publish stores messages at the end of topic, in one commit. It returns one outcome for each message: nil means that
	// it is on disk, now or since an earlier publish of the same event.
	Publish(ctx context.Context, topic string, messages []Message, opts PublishOptions) []error
	// Subscribe opens a stream of the events that opts.Group is owed. Streams of one group share its events. The caller
	// must Close it.
	Subscribe(ctx context.Context, opts SubscribeOptions) (Subscription, error)

	// DeadLetter returns one dead letter, or ErrNotFound.
	DeadLetter(ctx context.Context, id uint64) (DeadLetter, error)
	// Redrive sends dead letters back to their groups, at the end of the order and with the count of deliveries reset. It
	// returns those that were there and can be read.
	Redrive(ctx context.Context, ids []uint64) ([]DeadLetter, error)
	// Purge removes dead letters for good and returns how many there were.
	Purge(ctx context.Context, ids []uint64) (int, error)
	// RemoveGroup ends a group that left for good: what it was owed and its dead letters of the topic are forgotten. A
	// group that still has streams is refused.
	RemoveGroup(ctx context.Context, topic, group string) error

	Inspector

	// Close ends every subscription, puts back what is in flight, writes down what was acknowledged, and waits for all of
	// it, or for ctx.
	Close(ctx context.Context) error
}

// Subscription is one stream: the events of a consumer group that one app instance has in flight. Its methods may be
// called from any goroutine.
type Subscription interface {
	// Next waits for the next event. It returns ErrClosed once the subscription is closed. Every delivery must be ended by
	// Ack or Nack, or it ends by itself after AckWait or Close.
	Next(ctx context.Context) (*Delivery, error)
	// Ack acknowledges the delivery of that number. It reports false if Next has not returned it, or it has ended. One that
	// ended by AckWait can still be acknowledged while its event is to be delivered again, or is: that ends the event, unless
	// it becomes a dead letter by another delivery's answer first. It is known for the last MaxAckPending of such deliveries.
	Ack(number uint64) bool
	// Nack fails the delivery of that number for the given reason. It reports false if Next has not returned it, or it has
	// ended.
	Nack(number uint64, reason string) bool
	// Pause stops new deliveries; what is in flight can still be acknowledged.
	Pause()
	// Resume undoes Pause.
	Resume()
	// InFlight counts the events that were handed over and have not ended yet.
	InFlight() int
	// Emptied gets a value when the last event in flight has ended.
	Emptied() <-chan struct{}
	// Close ends the stream of a process that stops, and puts what is in flight back at once, uncounted. It may be called
	// more than once.
	Close()
	// Interrupt is Close for a stream that its consumer has ended. The oldest event in flight, if Next has returned it, may
	// be why: for that one it counts as an interruption, after which it waits as it does after a failed delivery, and too
	// many of which in a row make it a dead letter. The events behind it were not being handled yet.
	Interrupt()
}

var _ Service = (*Broker)(nil)
