package layout

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseTimeKey(f *testing.F) {
	f.Add(TimeKey(KindExpiry, 256, "key"))
	f.Add([]byte("e"))
	f.Fuzz(func(t *testing.T, k []byte) {
		instant, of, err := ParseTimeKey(k)
		if err == nil {
			require.Equal(t, k, TimeKey(k[0], instant, of))
		}
	})
}

func FuzzParseIndexEntry(f *testing.F) {
	f.Add([]byte("q\x00\x00\x00\x01xkey"), []byte{0, 1})
	f.Add([]byte("q"), []byte{255, 255})
	f.Fuzz(func(t *testing.T, k, v []byte) {
		indexKey, key, ok := ParseIndexEntry(k, v)
		if ok {
			require.Equal(t, string(k[1+IndexIDSize:]), string(indexKey)+string(key))
			require.NotEmpty(t, indexKey)
			require.NotEmpty(t, key)
		}
	})
}
