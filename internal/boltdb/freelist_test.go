package boltdb

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadFreelist(t *testing.T) {
	const page = 4096
	file := func(count uint16, numbers ...uint64) *bytes.Reader {
		raw := make([]byte, page+pageHeader, 3*page)
		binary.NativeEndian.PutUint16(raw[page+pageCount:], count)
		for _, n := range numbers {
			raw = binary.NativeEndian.AppendUint64(raw, n)
		}
		return bytes.NewReader(raw[:3*page])
	}
	m := meta{pageSize: page, freelist: 1, highWater: 70000}
	for name, test := range map[string]struct {
		file *bytes.Reader
		want []uint64
	}{
		"short": {file(3, 5, 6, 9), []uint64{5, 6, 9}},
		"empty": {file(0), []uint64{}},
		"long":  {file(freelistLong, 2, 7, 8), []uint64{7, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := readFreelist(test.file, m)
			require.NoError(t, err)
			got, err := l.pages(test.file)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
	_, err := readFreelist(file(freelistLong, 70001), m)
	require.ErrorIs(t, err, ErrDamaged)
	both := file(8, 3, 4, 5, 8, 9, 20, 21, 22)
	a, err := readFreelist(both, m)
	require.NoError(t, err)
	runs, err := commonRuns(both, a, freelist{count: 5, at: a.at + 2*pageNumber}) // 5 8 9 20 21
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 2}, runs)
}
