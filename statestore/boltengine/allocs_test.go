//go:build !race

package boltengine

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

// TestAllocs keeps the allocations of a call in check. Each write is alone in its commit here, whose own allocations,
// bbolt's most of all, are in the number; in company, they are shared (see the benchmarks). The race detector allocates too.
func TestAllocs(t *testing.T) {
	r := newRig(t)
	value := make([]byte, benchValue)
	var writes []statestore.Write
	for i := range int64(benchKeys) {
		writes = append(writes, statestore.Write{Op: statestore.OpSet, Key: benchKey(i), Value: value})
	}
	enginetest.Apply(t, r.store, writes...)

	i := 0
	next := func(n int) statestore.Transaction {
		i = (i + n) % (benchKeys - n)
		return statestore.Transaction{Writes: writes[i : i+n]}
	}
	each := func(t statestore.Transaction) (bulk []statestore.Transaction) {
		for i := range t.Writes {
			bulk = append(bulk, statestore.Transaction{Writes: t.Writes[i : i+1]})
		}
		return bulk
	}
	for _, c := range []struct {
		call string
		most float64
		run  func() error
	}{
		{"set", 64, func() error { return r.store.Apply(ctx, next(1)) }},
		{"transaction of 10", 180, func() error { return r.store.Apply(ctx, next(10)) }},
		{"bulk set of 10", 186, func() error { return errors.Join(r.store.ApplyEach(ctx, each(next(10)))...) }},
		{"get", 16, func() error { _, err := r.store.Get(ctx, next(1).Writes[0].Key); return err }},
	} {
		got := testing.AllocsPerRun(200, func() { require.NoError(t, c.run()) })
		t.Logf("%s: %.0f allocations", c.call, got)
		assert.LessOrEqual(t, got, c.most, "allocations of a %s", c.call)
	}
}
