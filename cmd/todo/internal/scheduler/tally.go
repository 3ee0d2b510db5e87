package scheduler

import (
	"context"
	"sync"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
)

// maxTallied bounds the memory of a Tally: the events heard of longest ago are forgotten first.
const maxTallied = 10_000

// Count is how often one event came.
type Count struct {
	// Deliveries counts every arrival since the process started.
	Deliveries int `json:"deliveries"`
	// Handled counts those that the handler took without an error.
	Handled int `json:"count"`
}

// Tally counts deliveries per event id, in memory.
type Tally struct {
	mu     sync.Mutex
	counts map[string]*Count
	order  []string
}

// Counting returns a handler that counts what it passes to next.
func (t *Tally) Counting(next event.Handler) event.Handler {
	return func(ctx context.Context, d event.Delivery) error {
		t.add(d.ID, func(c *Count) { c.Deliveries++ })
		err := next(ctx, d)
		if err == nil {
			t.add(d.ID, func(c *Count) { c.Handled++ })
		}
		return err
	}
}

// Of returns the count of an event; zero for one never heard of.
func (t *Tally) Of(eventID string) Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.counts[eventID]; ok {
		return *c
	}
	return Count{}
}

func (t *Tally) add(eventID string, change func(*Count)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.counts[eventID]
	if !ok {
		if t.counts == nil {
			t.counts = map[string]*Count{}
		}
		if len(t.order) == maxTallied {
			delete(t.counts, t.order[0])
			t.order = t.order[1:]
		}
		c = &Count{}
		t.counts[eventID] = c
		t.order = append(t.order, eventID)
	}
	change(c)
}
