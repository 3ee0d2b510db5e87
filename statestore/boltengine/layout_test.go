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
	require.Equal(t, want, got)

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
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeRecord("k", raw)
		h, headerErr := decodeHeader("k", raw)
		_, _ = decodeMark([]byte("digest"), raw)
		if err != nil {
			require.ErrorIs(t, err, statestore.ErrDamaged)
			return
		}
		require.NoError(t, headerErr, "a record that can be read can be overwritten by condition")
		require.Equal(t, header{Version: r.Version, ExpiresAt: r.ExpiresAt}, h)
		again, err := encode(r, len(raw))
		require.NoError(t, err)
		back, err := decodeRecord("k", again)
		require.NoError(t, err)
		require.Equal(t, string(r.Value), string(back.Value))
		require.Equal(t, r.ContentType, back.ContentType)
		require.Equal(t, r.Version, back.Version)
		require.Equal(t, r.ExpiresAt, back.ExpiresAt)
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
