package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// store takes calls. An error means that the call was cut off.
type store interface {
	do(ctx context.Context, c call) (answer, error)
}

// history is what the clients write down.
type history struct {
	began  time.Time
	values atomic.Int64 // the last that was made

	mu         sync.Mutex
	operations []porcupine.Operation
	failed     error
}

func newHistory() *history { return &history{began: time.Now()} }

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.operations)
}

// fail keeps the first error that is none of a call that was cut off.
func (h *history) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed == nil {
		h.failed = err
	}
}

// made is what the clients wrote down.
func (h *history) made() ([]porcupine.Operation, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.operations), h.failed
}

// client makes random calls.
type client struct {
	id      int
	store   store
	history *history
	random  *rand.Rand
	// seen is what it read last, by group and key: the versions that it makes conditions on.
	seen [groups][groupSize]struct{ value, etag string }
}

// errBroken ends a client that was told what cannot be.
var errBroken = errors.New("not an answer")

// run makes calls until ctx ends.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		asked := c.next()
		call := time.Since(c.history.began).Nanoseconds()
		a, err := c.store.do(context.WithoutCancel(ctx), asked)
		back := time.Since(c.history.began).Nanoseconds()
		switch {
		case errors.Is(err, errBroken):
			c.history.fail(fmt.Errorf("%+v: %w", asked, err))
			return
		case err != nil && asked.reads != nil:
			continue // it says nothing
		case err != nil:
			a, back = answer{unknown: true}, never
		}
		for i, key := range asked.reads {
			c.seen[asked.group][key] = struct{ value, etag string }{a.values[i], a.etags[i]}
		}
		c.history.mu.Lock()
		c.history.operations = append(c.history.operations, porcupine.Operation{ClientId: c.id, Input: asked, Call: call, Output: a, Return: back})
		c.history.mu.Unlock()
	}
}

// next is what it asks for next.
func (c *client) next() call {
	asked := call{group: c.random.IntN(groups)}
	switch p := c.random.IntN(100); {
	case p < 35:
		asked.reads = []int{c.random.IntN(groupSize)}
	case p < 50:
		asked.reads = c.random.Perm(groupSize)
	case p < 80:
		asked.changes = []change{c.change(asked.group)}
	default:
		for range 2 + c.random.IntN(groupSize) {
			asked.changes = append(asked.changes, c.change(asked.group))
		}
	}
	return asked
}

func (c *client) change(group int) change {
	key := c.random.IntN(groupSize)
	made := change{key: key, delete: c.random.IntN(4) == 0}
	if !made.delete {
		made.value = fmt.Sprintf("%s%d", prefix(group, key), c.history.values.Add(1))
	}
	switch seen, p := c.seen[group][key], c.random.IntN(10); {
	case p < 4 && seen.etag != "":
		made.when, made.expected, made.etag = ifMatch, seen.value, seen.etag
	case p < 6 && !made.delete:
		made.when = ifAbsent
	}
	return made
}

// clients run until the returned function is called, which waits for them.
func clients(ctx context.Context, n int, h *history, s store) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for id := range n {
		c := &client{id: id, store: s, history: h, random: rand.New(rand.NewPCG(uint64(id), rand.Uint64()))}
		group.Go(func() { c.run(ctx) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}
