package performance_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
)

const (
	readers = 4
	writers = 4
	// thought is what each user waits between two calls.
	thought = 2 * time.Millisecond
)

// times are how long calls took.
type times []time.Duration

func (d times) quantile(q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[int(q*float64(len(sorted)-1))]
}

func (d times) String() string {
	return fmt.Sprintf("%d calls, p50 %s, p99 %s, max %s", len(d), d.quantile(0.5).Round(time.Microsecond),
		d.quantile(0.99).Round(time.Microsecond), d.quantile(1).Round(time.Microsecond))
}

// phase is what users saw during it.
type phase struct {
	took          time.Duration
	reads, writes times
}

func (p phase) print(name string) {
	fmt.Printf("%s the sweep (%s): reads: %s; writes: %s\n", name, p.took.Round(time.Second), p.reads, p.writes)
}

// users read and write keys that have no end, until they are stopped.
type users struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	reads  times
	writes times
}

func use(t *testing.T, store proto.StateStoreClient) *users {
	u := &users{}
	ctx, cancel := context.WithCancel(t.Context())
	u.cancel = cancel
	t.Cleanup(u.stop)
	loop := func(to *times, call func(key string) error) {
		u.running.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if err := call(lastingKey(rand.IntN(lasting))); err != nil {
					t.Errorf("a user of the store: %v", err)
					return
				}
				took := time.Since(began)
				u.mu.Lock()
				*to = append(*to, took)
				u.mu.Unlock()
				select {
				case <-time.After(thought):
				case <-ctx.Done():
				}
			}
		})
	}
	for range readers {
		loop(&u.reads, func(key string) error {
			_, err := store.Get(context.WithoutCancel(ctx), &proto.GetRequest{Key: key})
			return err
		})
	}
	for range writers {
		loop(&u.writes, func(key string) error {
			_, err := store.Set(context.WithoutCancel(ctx), set(key, 0))
			return err
		})
	}
	return u
}

// during returns what users saw while something happened.
func (u *users) during(something func()) phase {
	u.mu.Lock()
	u.reads, u.writes = nil, nil
	u.mu.Unlock()
	began := time.Now()
	something()
	u.mu.Lock()
	defer u.mu.Unlock()
	return phase{time.Since(began), slices.Clone(u.reads), slices.Clone(u.writes)}
}

// stop ends them. It may be called again.
func (u *users) stop() {
	u.cancel()
	u.running.Wait()
}
