package suites

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dapr/components-contrib/health"
	"github.com/dapr/components-contrib/pubsub"
	suite "github.com/dapr/components-contrib/tests/conformance/pubsub"
	runtime "github.com/dapr/dapr/pkg/runtime/pubsub"
)

// publisherSubscriber is what the suite uses of a pub/sub.
type publisherSubscriber interface {
	pubsub.PubSub
	pubsub.BulkPublisher
	health.Pinger
}

// turns lets the suite's main goroutine and its handlers take turns. They share maps and counters without a common lock
// (components-contrib v1.18.3, tests/conformance/pubsub/pubsub.go: awaitingMessages, actualReadCount, outOfOrder), which is
// a data race that ends a run under the race detector, whatever the component does. So, on the two topics concerned, no
// handler runs before the suite's last publish, the bulk one, and that call returns when every event that was published
// has been handled; and no two handlers run at once. Every sub-test and every assertion of the suite stays.
//
// BulkSubscribe is the runtime's own, as in a sidecar: the pluggable protocol has none.
type turns struct {
	publisherSubscriber
	topics []string
	wait   time.Duration

	handlers sync.Mutex
	open     chan struct{}
	opened   sync.Once

	mu   sync.Mutex
	owed map[string]struct{}
	paid chan struct{} // gets a value when nothing is owed any more
}

func newTurns(ps publisherSubscriber, config *suite.TestConfig) *turns {
	return &turns{
		publisherSubscriber: ps,
		topics:              []string{config.TestTopicName, config.TestTopicForBulkSub},
		wait:                config.MaxReadDuration,
		open:                make(chan struct{}),
		owed:                make(map[string]struct{}),
		paid:                make(chan struct{}, 1),
	}
}

func (p *turns) Publish(ctx context.Context, req *pubsub.PublishRequest) error {
	p.owe(req.Topic, req.Data)
	return p.publisherSubscriber.Publish(ctx, req)
}

func (p *turns) BulkPublish(ctx context.Context, req *pubsub.BulkPublishRequest) (pubsub.BulkPublishResponse, error) {
	for i := range req.Entries {
		p.owe(req.Topic, req.Entries[i].Event)
	}
	response, err := p.publisherSubscriber.BulkPublish(ctx, req)
	p.opened.Do(func() { close(p.open) })
	timeout := time.NewTimer(p.wait)
	defer timeout.Stop()
	select {
	case <-p.paid:
	case <-timeout.C: // the suite will say what is missing
	}
	return response, err
}

func (p *turns) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) error {
	if !slices.Contains(p.topics, req.Topic) {
		return p.publisherSubscriber.Subscribe(ctx, req, handler)
	}
	return p.publisherSubscriber.Subscribe(ctx, req, func(ctx context.Context, m *pubsub.NewMessage) error {
		if err := p.begin(ctx); err != nil {
			return err
		}
		err := handler(ctx, m)
		p.end()
		if err == nil {
			p.pay(req.Topic, m.Data)
		}
		return err
	})
}

// BulkSubscribe implements pubsub.BulkSubscriber.
func (p *turns) BulkSubscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.BulkHandler) error {
	bulk := runtime.NewDefaultBulkSubscriber(p.publisherSubscriber)
	return bulk.BulkSubscribe(ctx, req, func(ctx context.Context, m *pubsub.BulkMessage) ([]pubsub.BulkSubscribeResponseEntry, error) {
		if err := p.begin(ctx); err != nil {
			return nil, err
		}
		entries, err := handler(ctx, m)
		p.end()
		for i := range entries {
			if entries[i].Error == nil {
				p.pay(req.Topic, m.Entries[i].Event)
			}
		}
		return entries, err
	})
}

func (p *turns) begin(ctx context.Context) error {
	select {
	case <-p.open:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.handlers.Lock()
	return nil
}

func (p *turns) end() { p.handlers.Unlock() }

func (p *turns) owe(topic string, data []byte) {
	if !slices.Contains(p.topics, topic) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owed[topic+" "+string(data)] = struct{}{}
}

func (p *turns) pay(topic string, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.owed)
	delete(p.owed, topic+" "+string(data))
	if before == 1 && len(p.owed) == 0 {
		p.paid <- struct{}{}
	}
}

func (p *turns) unpaid() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.owed))
}
