package boltengine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// TestLayoutStays pins the bytes: files that earlier builds wrote must stay readable.
func TestLayoutStays(t *testing.T) {
	raw := encodeRecord([]byte("vk"), 300, 7, &statestore.Write{ContentType: "t", Value: []byte{0, 255}})
	require.Equal(t, "\x02I\xb6N\x1b\x00\x00\x00\x00\x00\x00\x01\x2c\x00\x00\x00\x00\x00\x00\x00\x07\x00\x01t\x00\xff", string(raw))
	got, err := decodeRecord([]byte("vk"), raw)
	require.NoError(t, err)
	require.Equal(t, record{300, layout.Record{Expires: 7, ContentType: []byte("t"), Value: []byte{0, 255}}}, got)

	raw = layout.EncodeIdempotency(recordFormat, []byte("ik"), 7)
	require.Equal(t, "\x02\x03\x1a\x8b\xfd\x00\x00\x00\x00\x00\x00\x00\x07", string(raw))
	require.Equal(t, "e\x00\x00\x00\x00\x00\x00\x01\x00key", string(layout.TimeKey(layout.KindExpiry, 256, "key")))
	require.Equal(t, "vkey", string(valueKey("key")))
}

// A record of which any bit is wrong, or that lies under another key, is damaged.
func TestAFlippedBitIsNoticed(t *testing.T) {
	k := []byte("vkey")
	value := encodeRecord(k, 300, 7, &statestore.Write{ContentType: "text/plain", Value: []byte("value")})
	once := layout.EncodeIdempotency(recordFormat, k, 7)
	index, err := (&indexRecord{Path: "a.b", State: layout.IndexBuilding, Expires: 7}).encode(k)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		raw    []byte
		decode func(k, raw []byte) error
	}{
		"value":           {value, func(k, raw []byte) error { _, err := decodeRecord(k, raw); return err }},
		"idempotency key": {once, func(k, raw []byte) error { _, err := decodeIdempotency(k, raw); return err }},
		"index":           {index, func(k, raw []byte) error { return new(indexRecord).decode(k, raw) }},
	} {
		require.NoError(t, c.decode(k, c.raw), name)
		require.ErrorIs(t, c.decode([]byte("vkex"), c.raw), statestore.ErrDamaged, name)
		for bit := range 8 * len(c.raw) {
			c.raw[bit/8] ^= 1 << (bit % 8)
			require.ErrorIs(t, c.decode(k, c.raw), statestore.ErrDamaged, "%s, bit %d", name, bit)
			c.raw[bit/8] ^= 1 << (bit % 8)
		}
		for n := range c.raw {
			require.ErrorIs(t, c.decode(k, c.raw[:n]), statestore.ErrDamaged, "%s, %d bytes", name, n)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	k := []byte("vk")
	f.Add(uint64(1), int64(2), "text/plain", []byte("v"))
	f.Add(uint64(1<<63), int64(0), "", []byte{})
	f.Fuzz(func(t *testing.T, version uint64, expires int64, contentType string, value []byte) {
		if len(contentType) > statestore.MaxContentTypeSize {
			t.Skip()
		}
		raw := encodeRecord(k, version, expires, &statestore.Write{ContentType: contentType, Value: value})
		got, err := decodeRecord(k, raw)
		if version == 0 || expires < 0 {
			require.ErrorIs(t, err, statestore.ErrDamaged)
			return
		}
		require.NoError(t, err)
		require.Equal(t, version, got.version)
		require.Equal(t, expires, got.Expires)
		require.Equal(t, contentType, string(got.ContentType))
		require.Equal(t, string(value), string(got.Value))
	})
}

// What lies in a damaged file may have any form, with a checksum that is right.
func FuzzDecodeAnything(f *testing.F) {
	f.Add([]byte("vk"), []byte{})
	f.Add([]byte("vk"), encodeRecord([]byte("vk"), 1, 0, &statestore.Write{})[layout.SealSize:])
	f.Fuzz(func(t *testing.T, k, body []byte) {
		if len(k) == 0 {
			t.Skip()
		}
		for _, raw := range [][]byte{body, layout.Seal(recordFormat, k, append(make([]byte, layout.SealSize), body...))} {
			for _, err := range []error{
				func() error { _, err := decodeRecord(k, raw); return err }(),
				func() error { _, err := decodeIdempotency(k, raw); return err }(),
				new(indexRecord).decode(k, raw),
			} {
				if err != nil {
					require.ErrorIs(t, err, statestore.ErrDamaged)
				}
			}
		}
	})
}
