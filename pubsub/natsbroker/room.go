package natsbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// sizeFor is how long a broker goes by the size of the stream that the servers told it, and by what it has published since.
const sizeFor = time.Second

// checkRoom refuses events for which the stream has no room under their publisher's maxBytes. JetStream's own bound of a stream
// would refuse what becomes of the events that are there as well, and so they would never go.
func (b *Broker) checkRoom(ctx context.Context, events *publish, limit int64) error {
	if limit == 0 {
		return nil
	}
	b.mu.Lock()
	ask := b.clock.Since(b.sizeAt) >= sizeFor
	if ask {
		b.sizeAt = b.clock.Now()
	}
	b.mu.Unlock()
	if ask {
		if err := b.ask(ctx, func(ctx context.Context) error {
			info, err := b.stream.Info(ctx)
			if err == nil {
				b.mu.Lock()
				b.size = int64(info.State.Bytes)
				b.mu.Unlock()
			}
			return err
		}); err != nil {
			return err
		}
	}
	_, more := events.size()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size+int64(more) > limit {
		return fmt.Errorf("%w: the topics of its bucket hold %d bytes on the servers, dead letters among them, the publish takes %d, maxBytes is %d: have events handled and dead letters redriven or purged, or raise maxBytes",
			pubsub.ErrTopicFull, b.size, more, limit)
	}
	b.size += int64(more)
	return nil
}
