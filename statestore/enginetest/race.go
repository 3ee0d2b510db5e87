package enginetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// together runs fn n times at once.
func together(n int, fn func(i int)) {
	var start, done sync.WaitGroup
	start.Add(1)
	for i := range n {
		done.Go(func() {
			start.Wait()
			fn(i)
		})
	}
	start.Done()
	done.Wait()
}

func racingFirstWritesHaveOneWinner(t *testing.T, newPlace func() Place) {
	r := newRig(t, newPlace())
	t.Cleanup(func() { r.close(t) })
	for round := range 20 {
		key := fmt.Sprint("k", round)
		var won atomic.Int32
		var winner atomic.Value
		together(8, func(i int) {
			w := Set(key, fmt.Sprint(i))
			w.FirstWrite = true
			err := r.store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{w}})
			if err == nil {
				won.Add(1)
				winner.Store(fmt.Sprint(i))
			} else if !errors.Is(err, statestore.ErrETagMismatch) {
				t.Error(err)
			}
		})
		require.EqualValues(t, 1, won.Load())
		require.Equal(t, winner.Load(), string(Get(t, r.store, key).Value))
	}
}

func racingIdempotentCallsTakeEffectOnce(t *testing.T, newPlace func() Place) {
	r := newRig(t, newPlace())
	t.Cleanup(func() { r.close(t) })
	Apply(t, r.store, Set("counter", "0"))
	for round := range 20 {
		before := Get(t, r.store, "counter")
		// Each would move the counter, and by its ETag only one could without idempotency; with it, all succeed.
		together(8, func(i int) {
			w := Set("counter", fmt.Sprint(round, i))
			w.ETag = before.ETag
			err := r.store.Apply(ctx, statestore.Transaction{
				Writes:         []statestore.Write{w, Set(fmt.Sprint("effect", round, "-", i), "")},
				IdempotencyKey: fmt.Sprint("event", round),
			})
			if err != nil {
				t.Error(err)
			}
		})
		effects := 0
		for i := range 8 {
			if Get(t, r.store, fmt.Sprint("effect", round, "-", i)).Found {
				effects++
			}
		}
		require.Equal(t, 1, effects)
		require.NotEqual(t, before.ETag, Get(t, r.store, "counter").ETag)
	}
}

func readersSeeWholeTransactions(t *testing.T, newPlace func() Place) {
	r := newRig(t, newPlace())
	t.Cleanup(func() { r.close(t) })
	keys := []string{"a", "b", "c"}
	Apply(t, r.store, Set("a", "0"), Set("b", "0"), Set("c", "0"))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				items, err := r.store.GetMany(ctx, keys, 1<<20)
				if err != nil || string(items[0].Value) != string(items[1].Value) || string(items[0].Value) != string(items[2].Value) {
					t.Errorf("torn transaction: %v, %v", err, items)
					return
				}
			}
		})
	}
	for i := range 100 {
		v := fmt.Sprint(i)
		Apply(t, r.store, Set("a", v), Set("b", v), Set("c", v))
	}
	close(stop)
	readers.Wait()
}
