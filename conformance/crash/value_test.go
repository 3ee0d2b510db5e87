package crash

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
)

// deleteEvery makes each so many-th version of a key its absence.
const deleteEvery = 7

// maxFill bounds the bytes behind a version's number.
const maxFill = 3000

// versionOf returns what a key holds in its version n: n, and bytes that follow from the key and n alone, so that any
// change to them shows. nil: the key is absent.
func versionOf(key string, n int) []byte {
	if n%deleteEvery == 0 {
		return nil
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	random := rand.New(rand.NewPCG(h.Sum64(), uint64(n)))
	value := binary.BigEndian.AppendUint64(nil, uint64(n))
	for range random.IntN(maxFill) {
		value = append(value, byte(random.Uint32()))
	}
	return value
}

// numberOf returns the version that value is of key, or false if it is none.
func numberOf(key string, value []byte) (n int, whole bool) {
	if len(value) < 8 {
		return 0, false
	}
	n = int(binary.BigEndian.Uint64(value))
	return n, n > 0 && bytes.Equal(value, versionOf(key, n))
}
