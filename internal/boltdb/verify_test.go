package boltdb

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// variety is what a crash of a build without a log leaves of a file with all kinds of pages and elements: branches, a value of several pages, buckets
// with and without pages of their own.
func variety(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		format, err := tx.CreateBucket(bucketFormat)
		require.NoError(t, err)
		require.NoError(t, format.Put(keyVersion, binary.BigEndian.AppendUint64(nil, 2)))
		b, err := tx.CreateBucket(testBucket)
		require.NoError(t, err)
		for i := range 5 {
			require.NoError(t, b.Put(number(i), zeros[:1300]))
		}
		require.NoError(t, b.Put(number(6), zeros[:10000]))
		for name, size := range map[string]int{"inline": 10, "paged": 3000} {
			nested, err := b.CreateBucket([]byte(name))
			require.NoError(t, err)
			require.NoError(t, nested.Put([]byte("k"), zeros[:size]))
		}
		return nil
	}))
	require.NoError(t, db.Close())
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	return raw[:highWater(raw, newestMeta(t, raw))*os.Getpagesize()]
}

func firstProblem(raw []byte, m meta) (err error) {
	verify(bytes.NewReader(raw), m, func(problem error) bool {
		if err == nil {
			err = problem
		}
		return true
	})
	return err
}

// useVerified opens a damaged file, and changes it, if verify lets it through.
func useVerified(t *testing.T, path string, raw []byte) (through bool) {
	t.Helper()
	newest, _, valid := readMeta(bytes.NewReader(raw), int64(newestMeta(t, raw)))
	through = valid && firstProblem(raw, newest) == nil
	if through {
		useDamaged(t, path, raw, nil)
	}
	return through
}

// Whatever byte of a page's header, or of its elements, is another: bbolt, which looks for free pages in a goroutine of its
// own, does not end the process.
func TestVerifyProtectsTheProcess(t *testing.T) {
	raw := variety(t)
	page := os.Getpagesize()
	path := filepath.Join(t.TempDir(), "test.db")
	through := 0
	for start := 2 * page; start < len(raw); start += page {
		elements := int(min(binary.NativeEndian.Uint16(raw[start+pageCount:]), 8))
		for at := start; at < start+pageHeader+elements*elementSize; at++ {
			for _, flip := range []byte{1, 0x10, 0xff} {
				damaged := bytes.Clone(raw)
				damaged[at] ^= flip
				if useVerified(t, path, damaged) {
					through++
				}
			}
		}
	}
	require.Positive(t, through)
}

func TestVerifySaysWhereTheDamageIs(t *testing.T) {
	sound := variety(t)
	page := os.Getpagesize()
	m, _, valid := readMeta(bytes.NewReader(sound), int64(newestMeta(t, sound)))
	require.True(t, valid)
	require.NoError(t, firstProblem(sound, m))
	order := binary.NativeEndian
	root := int(m.root) * page
	// The root's elements are the two top-level buckets.
	element := root + pageHeader + elementSize
	key := element + int(order.Uint32(sound[element+4:]))
	tree := int(order.Uint64(sound[key+int(order.Uint32(sound[element+8:])):])) * page
	require.EqualValues(t, kindBranch, order.Uint16(sound[tree+pageKind:]))
	inline := bytes.Index(sound[root:], bucketFormat) + root + len(bucketFormat)
	for want, damage := range map[string]func(raw []byte){
		"has a bucket without a page":      func(raw []byte) { raw[inline+bucketOverhead+pageKind]++ },
		"has a bucket in a bucket without": func(raw []byte) { raw[inline+bucketOverhead+pageHeader] |= elementBucket },
		"has keys that do not ascend":      func(raw []byte) { copy(raw[key:], "aaaa") },
		"has keys of another page": func(raw []byte) {
			raw[tree+int(order.Uint32(raw[tree+pageHeader+elementSize:]))+pageHeader+elementSize+7]--
		},
		"has a branch to nowhere":              func(raw []byte) { order.PutUint64(raw[tree+pageHeader+8:], 0) },
		"is not of the kind":                   func(raw []byte) { raw[root+pageKind] = 4 },
		"has another page's number":            func(raw []byte) { raw[tree]++ },
		"has more elements than room":          func(raw []byte) { order.PutUint16(raw[tree+pageCount:], 5000) },
		"has an element that ends behind it":   func(raw []byte) { order.PutUint32(raw[tree+pageHeader+4:], 5000) },
		"has two places":                       func(raw []byte) { raw[min(tree, root)+pageOverflow] = byte((max(tree, root) - min(tree, root)) / page) },
		"lies behind the last":                 func(raw []byte) { order.PutUint64(raw[tree+pageHeader+8:], 1<<40) },
		"ends behind the last":                 func(raw []byte) { order.PutUint32(raw[tree+pageOverflow:], 1<<20) },
		"has a bucket that is too short":       func(raw []byte) { order.PutUint32(raw[element+12:], 15) },
		`of another program (bucket "formax")`: func(raw []byte) { copy(raw[bytes.Index(raw[root:], bucketFormat)+root:], "formax") },
	} {
		raw := bytes.Clone(sound)
		damage(raw)
		err := firstProblem(raw, m)
		require.ErrorIs(t, err, ErrFormat, want)
		require.ErrorContains(t, err, want)
		if !strings.Contains(want, "program") {
			require.ErrorContains(t, err, "damaged: page ")
		}
	}
}

// FuzzDamagedFile changes bytes of a file that a crash has left: four bytes say where, the fifth what is flipped.
func FuzzDamagedFile(f *testing.F) {
	raw := variety(f)
	for page := 2 * os.Getpagesize(); page < len(raw); page += os.Getpagesize() {
		for at := pageKind; at < pageHeader+elementSize; at += 2 {
			f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(page+at)), 0x11))
		}
	}
	path := filepath.Join(f.TempDir(), "test.db")
	f.Fuzz(func(t *testing.T, changes []byte) {
		damaged := bytes.Clone(raw)
		for ; len(changes) >= 5; changes = changes[5:] {
			damaged[int(binary.BigEndian.Uint32(changes))%len(damaged)] ^= changes[4]
		}
		useVerified(t, path, damaged)
	})
}
