package boltdb

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// In a file that comes from format 1, some namespaces are nested in a bucket of their kind.
func TestNamespacesOfBothFormats(t *testing.T) {
	db := open(t)
	update := func(fn func(tx *bbolt.Tx) error) {
		t.Helper()
		require.NoError(t, db.Update(t.Context(), func(tx *bbolt.Tx) error { return Dirty(fn(tx)) }))
	}
	old := NewNamespace(KindState, "old")
	update(func(tx *bbolt.Tx) error {
		nested, err := tx.CreateBucket([]byte(KindState))
		require.NoError(t, err)
		b, err := nested.CreateBucket([]byte("old"))
		require.NoError(t, err)
		return b.Put([]byte("whose"), []byte("old's"))
	})
	update(func(tx *bbolt.Tx) error {
		for _, n := range []Namespace{old, NewNamespace(KindState, "new"), NewNamespace(KindPubSub, "new"), NewNamespace(KindPubSub, "state")} {
			require.Equal(t, string(n.name) == "old", n.In(tx) != nil)
			b, err := n.Create(tx)
			require.NoError(t, err)
			again, err := n.Create(tx)
			require.NoError(t, err)
			require.Equal(t, b.Root(), again.Root())
		}
		return nil
	})

	for kind, want := range map[string][]string{KindState: {"new", "old"}, KindPubSub: {"new", "state"}, "stat": nil} {
		names, err := db.Namespaces(kind)
		require.NoError(t, err)
		require.Equal(t, want, names, kind)
	}
	tops := map[string]string{}
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		require.Equal(t, "old's", string(old.In(tx).Get([]byte("whose"))))
		missing := NewNamespace(KindState, "missing")
		require.Nil(t, missing.In(tx))
		return EachTop(tx, func(name []byte, b *bbolt.Bucket) error {
			tops[string(name)] = string(b.Get([]byte("whose")))
			return nil
		})
	}))
	require.Equal(t, map[string]string{"format": "", "state/old": "old's", "state/new": "", "pubsub/new": "", "pubsub/state": ""}, tops)
}

func TestMaxNamespaceName(t *testing.T) {
	db := open(t)
	for _, kind := range []string{KindState, KindPubSub} {
		require.NoError(t, db.Update(t.Context(), func(tx *bbolt.Tx) error {
			n := NewNamespace(kind, strings.Repeat("n", MaxNamespaceName))
			_, err := n.Create(tx)
			return Dirty(err)
		}))
	}
}
