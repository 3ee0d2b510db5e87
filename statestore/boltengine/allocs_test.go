//go:build !race

package boltengine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
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
	r.apply(t, writes...)

	i := 0
	next := func(n int) []statestore.Write {
		i = (i + n) % (benchKeys - n)
		return writes[i : i+n]
	}
	for _, c := range []struct {
		call string
		most float64
		run  func() error
	}{
		{"set", 107, func() error { return r.store.ApplyEach(ctx, next(1))[0] }},
		{"transaction of 10", 290, func() error { return r.store.Apply(ctx, next(10), statestore.TransactionOptions{}) }},
		{"bulk set of 10", 285, func() error { return r.store.ApplyEach(ctx, next(10))[0] }},
		{"get", 18, func() error { _, err := r.store.Get(ctx, next(1)[0].Key); return err }},
	} {
		got := testing.AllocsPerRun(200, func() { require.NoError(t, c.run()) })
		t.Logf("%s: %.0f allocations", c.call, got)
		assert.LessOrEqual(t, got, c.most, "allocations of a %s", c.call)
	}
}
