package main

import (
	"context"
	"sync"
)

// maxTallied bounds the memory of a tally.
const maxTallied = 10_000

// count is how often one event came, and how often its handler took it without an error.
type count struct {
	Deliveries int `json:"deliveries"`
	Handled    int `json:"count"`
}

// tally counts deliveries per event id, in memory, for whoever wants to see that an event came once. It begins again
// after maxTallied events.
type tally struct {
	mu     sync.Mutex
	counts map[string]count
}

// counting returns a handler that counts what it passes to next.
func (t *tally) counting(next func(context.Context, delivery) error) func(context.Context, delivery) error {
	return func(ctx context.Context, d delivery) error {
		t.add(d.ID, count{Deliveries: 1})
		err := next(ctx, d)
		if err == nil {
			t.add(d.ID, count{Handled: 1})
		}
		return err
	}
}

// of returns the count of an event; zero for one never heard of.
func (t *tally) of(eventID string) count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[eventID]
}

func (t *tally) add(eventID string, more count) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil || len(t.counts) == maxTallied {
		t.counts = map[string]count{}
	}
	c := t.counts[eventID]
	t.counts[eventID] = count{c.Deliveries + more.Deliveries, c.Handled + more.Handled}
}
