package boltengine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Keys that are set in their order, many at a time, leave little of the file unused; keys in any other order leave room
// between them.
func TestAnImportPacksItsPages(t *testing.T) {
	const keys, batch, size = 4_000, 200, 1_000
	unused := func(order []int) float64 {
		r := newRig(t)
		for start := 0; start < keys; start += batch {
			writes := make([]statestore.Transaction, batch)
			for i := range writes {
				writes[i].Writes = []statestore.Write{{Op: statestore.OpSet, Key: fmt.Sprintf("key-%06d", order[start+i]), Value: make([]byte, size)}}
			}
			for _, err := range r.store.ApplyEach(ctx, writes) {
				require.NoError(t, err)
			}
		}
		var s bbolt.BucketStats
		require.NoError(t, r.db.View(func(tx *boltdb.Tx) error {
			s = tx.Bucket([]byte("state/state")).Stats()
			return nil
		}))
		require.Greater(t, s.LeafInuse, keys*size)
		return 1 - float64(s.LeafInuse)/float64(s.LeafAlloc)
	}
	ordered := make([]int, keys)
	for i := range ordered {
		ordered[i] = i
	}
	require.Less(t, unused(ordered), 0.3)
	require.Greater(t, unused(rand.New(rand.NewPCG(1, 2)).Perm(keys)), 0.3)
}
