package boltengine

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Keys that are set in their order, many at a time, leave little of the file unused.
func TestAnImportPacksItsPages(t *testing.T) {
	const keys, batch, size = 4_000, 200, 1_000
	r := newRig(t)
	for start := 0; start < keys; start += batch {
		writes := make([]statestore.Transaction, batch)
		for i := range writes {
			writes[i].Writes = []statestore.Write{{Op: statestore.OpSet, Key: fmt.Sprintf("key-%06d", start+i), Value: make([]byte, size)}}
		}
		for _, err := range r.store.ApplyEach(ctx, writes) {
			require.NoError(t, err)
		}
	}
	r.close(t)
	file, err := bbolt.Open(r.path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, file.View(func(tx *bbolt.Tx) error {
		s := tx.Bucket([]byte("state/state")).Stats()
		require.Greater(t, s.LeafInuse, keys*size)
		require.Less(t, 1-float64(s.LeafInuse)/float64(s.LeafAlloc), 0.3)
		return nil
	}))
	require.NoError(t, file.Close())
}
