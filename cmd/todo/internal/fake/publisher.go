package fake

import (
	"context"
	"slices"
	"sync"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
)

// Broker is an event.Publisher that keeps what was published.
type Broker struct {
	// BeforePublish runs before an event is taken; its error is the publish's, and the event is not taken.
	BeforePublish func(e event.Event) error

	mu     sync.Mutex
	events []event.Event
}

// Publish takes an event.
func (b *Broker) Publish(_ context.Context, e event.Event) error {
	if b.BeforePublish != nil {
		if err := b.BeforePublish(e); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
	return nil
}

// Events returns every publish in order, duplicates too.
func (b *Broker) Events() []event.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

// IDs returns the id of every publish in order, duplicates too.
func (b *Broker) IDs() []string {
	var ids []string
	for _, e := range b.Events() {
		ids = append(ids, e.ID)
	}
	return ids
}

// Deliver returns an event as a first delivery of it.
func Deliver(e event.Event) event.Delivery {
	return event.Delivery{ID: e.ID, Topic: e.Topic, Attempt: "1", Data: e.Data}
}
