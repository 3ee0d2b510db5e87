package boltengine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

// bbolt splits pages when it commits: until then, each key in random order would move half of those before it.
func TestACommitWritesItsKeysInOrder(t *testing.T) {
	r := newRig(t)
	r.build(t, epoch.Add(time.Hour), "n")
	tx := statestore.Transaction{IdempotencyKey: "once"}
	for i := range 1000 {
		w := enginetest.Set(fmt.Sprintf("%016x", rand.Uint64()), fmt.Sprintf(`{"n":%d}`, i))
		w.TTL = time.Duration(1+rand.IntN(1000)) * time.Second
		tx.Writes = append(tx.Writes, w)
	}
	e := r.engine.(*engine)
	require.NoError(t, e.update(ctx, e.db.Update, func(b bucket) error {
		p := newPlan(b, epoch)
		require.NoError(t, p.take(&tx))
		c, err := p.changes()
		require.NoError(t, err)
		require.Len(t, c, 3002)
		require.NoError(t, p.write(c))
		require.True(t, slices.IsSortedFunc(c, func(a, b change) int { return bytes.Compare(a.k, b.k) }))
		return boltdb.Dirty(nil)
	}))
	requireIndexesRight(t, r)
}
