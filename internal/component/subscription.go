package component

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	contribpubsub "github.com/dapr/components-contrib/pubsub"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// subscription brings the events of one stream to a handler.
type subscription struct {
	source  pubsub.Subscription
	handler contribpubsub.Handler
	// leave is called when a stream's subscription has ended.
	leave func()
}

// run hands events over one at a time until ctx ends or the subscription is closed, and then closes it.
func (s *subscription) run(ctx context.Context, log *slog.Logger) {
	defer s.source.Close()
	// An event that is being handled must be put back when ctx ends, not only when its handler is done.
	defer context.AfterFunc(ctx, s.source.Close)()
	for {
		// Next fails only when ctx has ended or the subscription was closed.
		d, err := s.source.Next(ctx)
		if err != nil {
			return
		}
		switch err := handle(d.Context(), s.handler, message(d), log); {
		case err == nil:
			d.Ack()
		case ctx.Err() == nil:
			d.Nack(err.Error())
		}
	}
}

// handle runs a handler in which a panic is a failed delivery.
func handle(ctx context.Context, handler contribpubsub.Handler, m *contribpubsub.NewMessage, log *slog.Logger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic in an event handler", "topic", m.Topic, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in the event handler: %v", p)
		}
	}()
	return handler(ctx, m)
}
