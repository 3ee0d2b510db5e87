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
	units := []statestore.Unit{{Changes: []statestore.Change{{Key: "a"}, {Key: "b"}}}, {Changes: []statestore.Change{{Key: "c"}}}}

	_, err = visitor.Apply(ctx, units, epoch)
	require.NoError(t, err)
	require.Zero(t, visitor.visit(units))

	visitor.visitFrom = visitor.fileSize.Load()
	require.Positive(t, visitor.visitFrom)
	require.Equal(t, 3, visitor.visit(units))
}
