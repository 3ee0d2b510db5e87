package databases

import (
	"context"
	"fmt"
	"maps"
	"sync"
)

// shared makes each of its values once, on first use, and hands the same one to everybody. Making one value holds up
// nobody who wants another.
type shared[K comparable, V any] struct {
	// make is called on a goroutine of its own; ctx ends when the values are closed, not when a caller leaves.
	make func(ctx context.Context, key K) (V, error)

	// what names the values, and limit bounds how many there are; see Options.
	what  string
	limit int

	ctx    context.Context
	cancel context.CancelFunc
	makers sync.WaitGroup

	mu     sync.Mutex
	values map[K]*sharedValue[V]
	closed bool
}

type sharedValue[V any] struct {
	made  chan struct{} // closed once value and err stand
	value V
	err   error
}

func newShared[K comparable, V any](what string, limit int, make func(ctx context.Context, key K) (V, error)) *shared[K, V] {
	ctx, cancel := context.WithCancel(context.Background())
	return &shared[K, V]{what: what, limit: limit, make: make, ctx: ctx, cancel: cancel, values: map[K]*sharedValue[V]{}}
}

// get returns the key's value and makes it if need be. A failure is everybody's who waited for it; the next call tries
// again. A caller whose ctx ends stops waiting.
func (s *shared[K, V]) get(ctx context.Context, key K) (V, error) {
	var zero V
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return zero, ErrClosed
	}
	v := s.values[key]
	if v == nil {
		if len(s.values) >= s.limit {
			s.mu.Unlock()
			return zero, fmt.Errorf("%w: %d %s are open, and no more are allowed", ErrTooMany, s.limit, s.what)
		}
		v = &sharedValue[V]{made: make(chan struct{})}
		s.values[key] = v
		s.makers.Go(func() { s.fill(key, v) })
	}
	s.mu.Unlock()

	select {
	case <-v.made:
		return v.value, v.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

func (s *shared[K, V]) fill(key K, v *sharedValue[V]) {
	v.value, v.err = s.make(s.ctx, key)
	if v.err != nil {
		s.mu.Lock()
		delete(s.values, key)
		s.mu.Unlock()
	}
	close(v.made)
}

// made returns the values that stand now.
func (s *shared[K, V]) made() map[K]V {
	s.mu.Lock()
	pending := maps.Clone(s.values)
	s.mu.Unlock()
	values := make(map[K]V, len(pending))
	for key, v := range pending {
		select {
		case <-v.made:
			if v.err == nil {
				values[key] = v.value
			}
		default:
		}
	}
	return values
}

// close refuses further calls, waits for what is being made, and returns everything that was made.
func (s *shared[K, V]) close() map[K]V {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.makers.Wait()
	return s.made()
}
