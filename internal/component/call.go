package component

import "context"

// call is one call of a client, from its headers to its end, and its context. Whatever is found out on the way down to
// the components stands here, as the SDK hands nothing on but a context.
type call struct {
	context.Context // gRPC's
	conn            *connection
	method          string
	// component is the name of the component that it is for.
	component string

	// store or pubsub is the instance that it is for, once bound.
	store  *StateStore
	pubsub *PubSub
	// pull is the stream of a PullMessages.
	pull *pull
	// bulkErr is where BulkPublish leaves the error that the SDK drops.
	bulkErr error

	arrival
}

type callKey struct{}

// Value implements context.Context.
func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Done implements context.Context. While the request arrives, it is the limiter that ends the call: a context made for that
// with context.WithCancel takes four allocations. Then it is gRPC's again.
func (c *call) Done() <-chan struct{} {
	if c.received.Load() {
		return c.Context.Done()
	}
	return c.ended
}

// Err implements context.Context. Of a call that was evicted it says why, as gRPC puts it into the answer.
func (c *call) Err() error {
	if evicted := c.evicted.Load(); evicted != nil {
		return *evicted
	}
	select {
	case <-c.ended:
		return context.Canceled
	default:
		return c.Context.Err()
	}
}

// callOf returns the call that a context is of; nil: it is none of a client's.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}
