package boltengine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// TestIndexLayoutStays pins the bytes: files that earlier builds wrote must stay readable, and an index be right with them.
func TestIndexLayoutStays(t *testing.T) {
	require.Equal(t, "n\x00\x00\x01\x02", string(indexRecordKey(0x102)))
	k, v := layout.IndexEntry(0x102, []byte("indexkey"), []byte("key"))
	require.Equal(t, "q\x00\x00\x01\x02indexkeykey", string(k))
	require.Equal(t, "\x00\x08", string(v))
	indexKey, key, ok := layout.ParseIndexEntry(k, v)
	require.True(t, ok)
	require.Equal(t, "indexkey", string(indexKey))
	require.Equal(t, "key", string(key))

	want := indexRecord{Path: "a.b", State: layout.IndexBuilding, Expires: 7, Many: true, Keys: 3, Cursor: []byte("k")}
	raw, err := want.encode([]byte("nk"))
	require.NoError(t, err)
	require.Equal(t, "\x02\x18g`\x80\xa6\x01\x63a.b\x02\x01\x03\x07\x04\xf5\x05\x03\x06\x41k", string(raw))
	var got indexRecord
	require.NoError(t, got.decode([]byte("nk"), raw))
	require.Equal(t, want, got)

	path, err := statestore.ParseFieldPath("v")
	require.NoError(t, err)
	require.Equal(t, [][]byte{
		[]byte("\x02\x3f\xff\xff\xff\xff\xff\xff\xff"), []byte("\x02\xbf\xf8\x00\x00\x00\x00\x00\x00"), []byte("\x03a\x00\xffb\x00\x01"), {6}, {7},
	}, statestore.IndexKeys(&path, []byte(`{"v":[true,false,"a\u0000b",1.5,-2.0000000000000000,null]}`))[:5])
}
