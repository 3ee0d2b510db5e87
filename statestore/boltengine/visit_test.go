package boltengine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func TestKeysOfLargeFilesAreVisitedBeforeTheyAreWritten(t *testing.T) {
	r := newRig(t)
	e, err := New(r.db, "visits")
	require.NoError(t, err)
	visitor := e.(*engine)
	transactions := []statestore.Transaction{{Writes: []statestore.Write{{Op: statestore.OpSet, Key: "a"}, {Op: statestore.OpSet, Key: "b"}}}, {Writes: []statestore.Write{{Op: statestore.OpSet, Key: "c"}}}}

	_, err = visitor.Apply(ctx, transactions, r.clock.Now)
	require.NoError(t, err)
	require.Zero(t, visitor.visit(transactions))

	visitor.visitFrom = visitor.fileSize.Load()
	require.Positive(t, visitor.visitFrom)
	require.Equal(t, 3, visitor.visit(transactions))
}
