package boltengine

import (
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

// oldRecord is a record as builds before format 3 wrote them.
func oldRecord(t *testing.T, fields map[int]any) []byte {
	t.Helper()
	raw, err := cbor.Marshal(fields)
	require.NoError(t, err)
	return append([]byte{format1}, raw...)
}

func TestRecordsOfFormat1AreReadAndReplaced(t *testing.T) {
	r := newRig(t)
	end := r.clock.Now().Add(time.Hour)
	r.put(t, valueKey("k"), oldRecord(t, map[int]any{1: 7, 2: end.UnixNano(), 3: "text/plain", 4: []byte("old")}))
	item := enginetest.Get(t, r.store, "k")
	require.Equal(t, "old", string(item.Value))
	require.Equal(t, "text/plain", item.ContentType)
	require.True(t, end.Equal(item.Expires), item.Expires)

	enginetest.Apply(t, r.store, statestore.Write{Op: statestore.OpSet, Key: "k", Value: []byte("new"), ETag: item.ETag})
	require.Equal(t, "new", string(enginetest.Get(t, r.store, "k").Value))
}
