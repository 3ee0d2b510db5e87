package boltengine

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// TestLayoutStays pins the bytes: files that earlier builds wrote must stay readable.
func TestLayoutStays(t *testing.T) {
	want := record{Version: 300, ExpiresAt: 7, ContentType: "t", Value: []byte{0, 255}}
	raw, err := encode(want, 3)
	require.NoError(t, err)
	require.Equal(t, "\x01\xa4\x01\x19\x01\x2c\x02\x07\x03\x61t\x04\x42\x00\xff", string(raw))
	got, err := decodeRecord("k", raw)
	require.NoError(t, err)
	require.Equal(t, stored{header{300, 7}, []byte("t"), []byte{0, 255}}, got)
	_, ok := scan(raw[1:])
	require.True(t, ok)

	raw, err = encode(mark{ExpiresAt: 7}, 0)
	require.NoError(t, err)
	require.Equal(t, "\x01\xa1\x01\x07", string(raw))
	require.Equal(t, "e\x00\x00\x00\x00\x00\x00\x01\x00key", string(timeKey(prefixExpiry, 256, "key")))
	require.Equal(t, "vkey", string(valueKey(nil, "key")))
}

func TestRecordOverheadCoversTheLargestRecord(t *testing.T) {
	r := record{Version: math.MaxUint64, ExpiresAt: math.MaxInt64, ContentType: string(make([]byte, statestore.MaxContentTypeSize)),
		Value: make([]byte, statestore.MaxValueSize)}
	raw, err := encode(r, len(r.ContentType)+len(r.Value))
	require.NoError(t, err)
	require.LessOrEqual(t, len(raw), len(r.ContentType)+len(r.Value)+recordOverhead)
}

func FuzzDecodeRecord(f *testing.F) {
	raw, err := encode(record{Version: 1, ExpiresAt: 2, ContentType: "text/plain", Value: []byte("v")}, 0)
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte{recordFormat, 0xa1, 1, 1})
	f.Add([]byte{recordFormat, 0x9f, 0xff})
	f.Add([]byte{recordFormat, 0xa1, 4, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{recordFormat, 0xa2, 1, 1, 4, 0xf6})
	f.Add([]byte{recordFormat, 0xa2, 1, 1, 3, 0x61, 0xff})
	for _, size := range []int{0, 1, 23, 24, 255, 256, 65535, 65536} {
		raw, err := encode(record{Version: 1 << (size % 64), Value: make([]byte, size)}, size)
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decodeRecord("k", raw)
		_, _ = decodeMark([]byte("digest"), raw)
		if err != nil {
			require.ErrorIs(t, err, statestore.ErrDamaged)
			return
		}
		// The library sees what scan sees.
		var r record
		require.NoError(t, decode(raw, &r))
		require.Equal(t, r, record{got.Version, got.ExpiresAt, string(got.contentType), got.value})
		again, err := encode(r, len(raw))
		require.NoError(t, err)
		back, ok := scan(again[1:])
		require.True(t, ok)
		require.Equal(t, got.header, back.header)
		require.Equal(t, string(got.contentType), string(back.contentType))
		require.Equal(t, string(got.value), string(back.value))
	})
}

func FuzzParseTimeKey(f *testing.F) {
	f.Add(timeKey(prefixExpiry, 256, "key"))
	f.Add([]byte("e"))
	f.Fuzz(func(t *testing.T, k []byte) {
		instant, of, err := parseTimeKey(k)
		if err == nil {
			require.Equal(t, k, timeKey(k[0], instant, of))
		}
	})
}
