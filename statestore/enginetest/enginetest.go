// Package enginetest holds every statestore.Engine to what statestore promises: with a model and random histories, with
// queries against one that reads everything, and with callers that race.
package enginetest

import (
	"context"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

var (
	ctx   = context.Background()
	epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Place is where an engine keeps one bucket, empty at first.
type Place interface {
	// Open returns an engine on the place. It is called again after Close.
	Open(t require.TestingT) statestore.Engine
	// Close ends the engine of the last Open.
	Close(t require.TestingT)
	// Count returns how many keys the place holds of each kind ('v': values, 'e': their expiries, 'i': idempotency keys,
	// 'x': their expiries), or nil if that depends on more than what is live.
	Count(t require.TestingT) map[byte]int
	// CheckIndexes compares the entries of the complete indexes with what they must be, if the place shows them.
	CheckIndexes(t require.TestingT)
}

// Run runs everything. newPlace returns another place each time.
func Run(t *testing.T, newPlace func() Place) {
	t.Run("model", func(t *testing.T) { Model(t, newPlace) })
	t.Run("queries", func(t *testing.T) { Queries(t, newPlace) })
	t.Run("racing first-writes have one winner", func(t *testing.T) { racingFirstWritesHaveOneWinner(t, newPlace) })
	t.Run("racing idempotent calls take effect once", func(t *testing.T) { racingIdempotentCallsTakeEffectOnce(t, newPlace) })
	t.Run("readers see whole transactions", func(t *testing.T) { readersSeeWholeTransactions(t, newPlace) })
}

// rig is a store over a place, with a clock that stands still.
type rig struct {
	place  Place
	clock  *clockwork.FakeClock
	engine statestore.Engine
	store  *statestore.Store
}

func newRig(t require.TestingT, place Place) *rig {
	r := &rig{place: place, clock: clockwork.NewFakeClockAt(epoch)}
	r.open(t)
	return r
}

func (r *rig) open(t require.TestingT) {
	r.engine = r.place.Open(t)
	var err error
	// The background sweeper sleeps through the test: sweeps are called for by name.
	r.store, err = statestore.New(r.engine, statestore.Options{Clock: r.clock, CleanupInterval: 1000 * time.Hour})
	require.NoError(t, err)
}

func (r *rig) close(t require.TestingT) {
	require.NoError(t, r.store.Close(ctx))
	r.place.Close(t)
}

// Set returns a write that sets a key, whatever is there.
func Set(key, value string) statestore.Write {
	return statestore.Write{Op: statestore.OpSet, Key: key, Value: []byte(value)}
}

// Delete returns a write that deletes a key, whatever is there.
func Delete(key string) statestore.Write { return statestore.Write{Op: statestore.OpDelete, Key: key} }

// Apply makes the writes as one transaction.
func Apply(t require.TestingT, store *statestore.Store, writes ...statestore.Write) {
	require.NoError(t, store.Apply(ctx, statestore.Transaction{Writes: writes}))
}

// Get reads a key.
func Get(t require.TestingT, store *statestore.Store, key string) statestore.Item {
	item, err := store.Get(ctx, key)
	require.NoError(t, err)
	return item
}

// ItemKeys lists the keys of items.
func ItemKeys(items []statestore.Item) []string {
	keys := []string{}
	for _, item := range items {
		keys = append(keys, item.Key)
	}
	return keys
}

// SweepAll removes what has expired, in steps of limit, and returns how many it dealt with.
func SweepAll(t require.TestingT, engine statestore.Engine, now time.Time, limit int) (total int) {
	for more := true; more; {
		swept, again, err := engine.Sweep(ctx, now, limit)
		require.NoError(t, err)
		total, more = total+swept, again
	}
	return total
}
