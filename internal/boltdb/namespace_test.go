package boltdb

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamespaces(t *testing.T) {
	db := open(t)
	for _, n := range []Namespace{NewNamespace(KindState, "new"), NewNamespace(KindPubSub, "new"), NewNamespace(KindPubSub, "state")} {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			require.Nil(t, n.In(tx))
			b, err := n.Create(tx)
			require.NoError(t, err)
			again, err := n.Create(tx)
			require.NoError(t, err)
			require.Same(t, b, again)
			return nil
		}))
	}
	for kind, want := range map[string][]string{KindState: {"new"}, KindPubSub: {"new", "state"}, "stat": nil} {
		names, err := db.Namespaces(kind)
		require.NoError(t, err)
		require.Equal(t, want, names, kind)
	}
}

func TestMaxNamespaceName(t *testing.T) {
	db := open(t)
	for _, kind := range []string{KindState, KindPubSub} {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			n := NewNamespace(kind, strings.Repeat("n", MaxNamespaceName))
			_, err := n.Create(tx)
			return Dirty(err)
		}))
	}
}
