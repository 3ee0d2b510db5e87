package etcdengine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// TestLayoutStays pins the bytes: what earlier builds wrote to a cluster must stay readable, also by those that still run.
func TestLayoutStays(t *testing.T) {
	s := space("p/d/state/b/")
	k := s.key(layout.KindValue, "k")
	require.Equal(t, "p/d/state/b/vk", k)
	require.Equal(t, "p/d/state/b/w", s.end(layout.KindValue))
	require.Equal(t, "k", s.of(k))
	raw := encodeRecord(k, 7, &statestore.Write{ContentType: "t", Value: []byte{0, 255}})
	require.Equal(t, "\x01B\xbaVx\x00\x00\x00\x00\x00\x00\x00\x07\x00\x01t\x00\xff", raw)
	got, err := s.decodeRecord(k, []byte(raw))
	require.NoError(t, err)
	require.Equal(t, layout.Record{Expires: 7, ContentType: []byte("t"), Value: []byte{0, 255}}, got)
	_, err = s.decodeRecord(k+"2", []byte(raw))
	require.ErrorIs(t, err, statestore.ErrDamaged)
	require.ErrorContains(t, err, `value of key "k2"`)

	require.Equal(t, "\x01\x11\x8a\xf0\xeb\x00\x00\x00\x00\x00\x00\x00\x07", encodeIdempotency(s.key(layout.KindIdempotency, "d"), 7))
	require.Equal(t, "p/d/state/b/e\x00\x00\x00\x00\x00\x00\x01\x00key", s.timeKey(layout.KindExpiry, 256, "key"))
	entry, length := s.indexEntry(0x102, []byte("indexkey"), "key")
	require.Equal(t, "p/d/state/b/q\x00\x00\x01\x02indexkeykey", entry)
	require.Equal(t, "\x00\x08", length)
	require.Equal(t, "p/d/state/b/p\x00\x00\x01\x02", s.key(kindProgress, indexID(0x102)))
	require.Equal(t, "\x01\x01f\xd9\xd3body", seal(s.key(kindRegistry, ""), []byte("body")))
}
