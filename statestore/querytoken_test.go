package statestore

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"
)

func TestTheLongestTokenLeavesRoomForTheLargestItem(t *testing.T) {
	keys := make([]SortKey, MaxSortKeys)
	at := position{key: strings.Repeat("k", MaxKeySize)}
	for range keys {
		at.values = append(at.values, bytes.Repeat([]byte{1}, MaxSortValueSize))
	}
	token, err := encodeToken(keys, &at)
	require.NoError(t, err)
	const receiveLimit, frame = 4 << 20, 1 << 10
	require.LessOrEqual(t, len(token)+MaxPageSize+frame, receiveLimit)
	largest := MaxValueSize + MaxKeySize + MaxContentTypeSize + len("18446744073709551615") + PageItemOverhead
	require.LessOrEqual(t, largest, MaxPageSize)
	got, err := decodeToken(token, keys)
	require.NoError(t, err)
	require.Equal(t, &at, got)
}

func TestBadTokens(t *testing.T) {
	keys := []SortKey{{Path: "a"}}
	token := func(body any) string {
		raw, err := cbor.Marshal(body)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(append([]byte{tokenFormat}, raw...))
	}
	right := tokenBody{Sort: sortDigest(keys), Values: [][]byte{{orderNull}}, Key: "k"}
	_, err := decodeToken(token(right), keys)
	require.NoError(t, err)
	for name, c := range map[string]struct{ token, text string }{
		"text":            {"?", "not base64url"},
		"other format":    {"Ag", "unknown format"},
		"nothing":         {token(struct{}{}), "another sort"},
		"no CBOR":         {base64.RawURLEncoding.EncodeToString([]byte{tokenFormat, 0xff}), "damaged"},
		"no key":          {token(tokenBody{Sort: right.Sort, Values: right.Values}), "damaged"},
		"key not UTF-8":   {token(map[int]any{1: right.Sort, 2: right.Values, 3: []byte("\xff")}), "damaged"},
		"missing value":   {token(tokenBody{Sort: right.Sort, Key: "k"}), "another sort"},
		"long sort value": {token(tokenBody{Sort: right.Sort, Values: [][]byte{make([]byte, MaxSortValueSize+1)}, Key: "k"}), "damaged"},
		"other sort":      {token(tokenBody{Sort: sortDigest([]SortKey{{Path: "a", Descending: true}}), Values: right.Values, Key: "k"}), "another sort"},
		"too long":        {strings.Repeat("A", MaxPageSize+1), "too long"},
	} {
		_, err := decodeToken(c.token, keys)
		require.ErrorIs(t, err, ErrInvalidArgument, name)
		require.ErrorContains(t, err, c.text, name)
		require.Less(t, len(err.Error()), 512)
	}
}

func FuzzDecodeToken(f *testing.F) {
	keys := []SortKey{{Path: "a"}, {Path: "b", Descending: true}}
	token, err := encodeToken(keys, &position{values: [][]byte{{orderNull}, {orderTrue}}, key: "k"})
	require.NoError(f, err)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(f, err)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		at, err := decodeToken(base64.RawURLEncoding.EncodeToString(raw), keys)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidArgument)
			return
		}
		token, err := encodeToken(keys, at)
		require.NoError(t, err)
		again, err := decodeToken(token, keys)
		require.NoError(t, err)
		require.Equal(t, at, again)
	})
}
