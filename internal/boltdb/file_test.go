package boltdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// filled is the content of a database file at rest, with keys 0 to 299.
func filled(t testing.TB) []byte {
	t.Helper()
	_, _, atRest := filledTwice(t)
	return atRest
}

// filledTwice also returns what a crash leaves of it, and of its log.
func filledTwice(t testing.TB) (crashed, log, atRest []byte) {
	t.Helper()
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{})
	require.NoError(t, err)
	for batch := range 10 {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			for i := range 30 {
				if err := put(fmt.Sprint(30*batch+i), strings.Repeat("v", 500))(tx); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	crashed = content(t, db)
	log, err = os.ReadFile(db.Path() + logSuffix)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.NoFileExists(t, db.Path()+logSuffix)
	return crashed, log, content(t, db)
}

// content is what the file holds; what lies behind is room to grow into.
func content(t testing.TB, db *DB) []byte {
	t.Helper()
	raw, err := os.ReadFile(db.Path())
	require.NoError(t, err)
	return raw[:highWater(raw, newestMeta(t, raw))*os.Getpagesize()]
}

// newestMeta says where the meta page is that counts.
func newestMeta(t testing.TB, raw []byte) (at int) {
	t.Helper()
	page := os.Getpagesize()
	transaction := func(at int) uint64 {
		return binary.NativeEndian.Uint64(raw[at+pageHeader+metaTransaction:])
	}
	if transaction(page) > transaction(0) {
		return page
	}
	return 0
}

// Every file that cannot be used is refused with a text of its own, and stays as it was.
func TestAFileThatCannotBeUsed(t *testing.T) {
	sound := filled(t)
	page := os.Getpagesize()
	meta := newestMeta(t, sound)
	with := func(change func(raw []byte) []byte) []byte { return change(append([]byte(nil), sound...)) }
	bolt := func(fill func(tx *bbolt.Tx) error, opts *bbolt.Options) []byte {
		path := filepath.Join(t.TempDir(), "other.db")
		db, err := bbolt.Open(path, 0o600, opts)
		require.NoError(t, err)
		require.NoError(t, db.Update(fill))
		require.NoError(t, db.Close())
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		return raw
	}
	version := func(raw []byte) []byte {
		return bolt(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(bucketFormat)
			return errors.Join(err, b.Put(keyVersion, raw))
		}, nil)
	}
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"a newer version":           {version(binary.BigEndian.AppendUint64(nil, 7)), "it was written by a newer dapr-bolt: it has format 7, this build reads up to format 4"},
		"an older version":          {version(binary.BigEndian.AppendUint64(nil, 1)), "it has format 1, this build reads from format 2 on"},
		"a version that never was":  {version(make([]byte, 8)), "it has format 0, which never was"},
		"a version of 3 bytes":      {version([]byte("abc")), "its version takes 3 bytes, want 8"},
		"cut short by a page":       {with(func(raw []byte) []byte { return raw[:highWater(raw, meta)*page-1] }), "cut short: it has "},
		"cut short to the metas":    {with(func(raw []byte) []byte { return raw[:2*page] }), "cut short: it has "},
		"cut in the first page":     {with(func(raw []byte) []byte { return raw[:100] }), "cut short: it has 100 bytes"},
		"one byte":                  {[]byte{1}, "it is no bbolt file"},
		"text":                      {[]byte(strings.Repeat("hello world\n", 10000)), "it is no bbolt file"},
		"zeros":                     {make([]byte, 100<<10), "it is no bbolt file"},
		"both meta pages flipped":   {with(func(raw []byte) []byte { raw[pageHeader+30] ^= 1; raw[page+pageHeader+30] ^= 1; return raw }), "damaged: both of the pages"},
		"another program's file":    {bolt(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("x")); return err }, nil), `it is a bbolt file of another program (bucket "x")`},
		"one without its free list": {bolt(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("x")); return err }, &bbolt.Options{NoFreelistSync: true}), `it is a bbolt file of another program (bucket "x")`},
		"a free list that is none": {with(func(raw []byte) []byte {
			at := int(binary.NativeEndian.Uint64(raw[meta+pageHeader+metaFreelist:])) * page
			raw[at+8] = 0x02
			return raw
		}), "damaged: "},
		"a root that is none": {with(func(raw []byte) []byte {
			at := int(binary.NativeEndian.Uint64(raw[meta+pageHeader+16:])) * page
			for i := range 64 {
				raw[at+8+i] = 0xff
			}
			return raw
		}), "damaged: "},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "test.db")
			require.NoError(t, os.WriteFile(path, test.raw, 0o600))
			before, err := os.Stat(path)
			require.NoError(t, err)
			_, err = Open(t.Context(), path, Options{})
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, test.want)
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, test.raw, raw)
			after, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, before.ModTime(), after.ModTime())
			// The lock is let go.
			f, err := os.Open(path)
			require.NoError(t, err)
			defer f.Close()
			require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
		})
	}
}

// What an older build has left without being closed goes back to it as it was if this one refuses it: only with its log is it
// brought up to date.
func TestARefusedFileOfAnOlderFormatStaysOne(t *testing.T) {
	crashed, log, _ := filledTwice(t)
	_, another, _ := filledTwice(t)
	path := filepath.Join(t.TempDir(), "test.db")
	require.NoError(t, os.WriteFile(path, crashed, 0o600))
	bolt, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, bolt.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketFormat).Put(keyVersion, binary.BigEndian.AppendUint64(nil, FormatVersion-1))
	}))
	require.NoError(t, bolt.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, wal := range [][]byte{nil, another} {
		if wal != nil {
			require.NoError(t, os.WriteFile(path+logSuffix, wal, 0o600))
		}
		_, err = Open(t.Context(), path, Options{})
		require.ErrorIs(t, err, ErrFormat)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after))
	}
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NotEmpty(t, get(t, db, "299"))
	require.NoError(t, db.View(func(*Tx) error {
		return db.bolt.View(func(tx *bbolt.Tx) error {
			version, _, err := readFormat(tx)
			require.EqualValues(t, FormatVersion, version)
			return err
		})
	}))
	require.NoError(t, db.Close())
	require.Empty(t, check(t, path))
}

func highWater(raw []byte, meta int) int {
	return int(binary.NativeEndian.Uint64(raw[meta+pageHeader+metaHighWater:]))
}

func TestWhatIsNotAFile(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(t.Context(), dir, Options{})
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, dir+": not a database file of this version: it is not a file")
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	_, err = Open(t.Context(), fifo, Options{})
	require.ErrorContains(t, err, "it is not a file")
}

// In a file at rest, the meta page that counts must be whole; the other one is of no use any more.
func TestTheMetaPageThatCountsMustBeWhole(t *testing.T) {
	sound := filled(t)
	newest := newestMeta(t, sound)
	open := func(flip int) (*DB, string, error) {
		raw := append([]byte(nil), sound...)
		raw[flip+pageHeader+30] ^= 1
		path := filepath.Join(t.TempDir(), "test.db")
		require.NoError(t, os.WriteFile(path, raw, 0o600))
		var log strings.Builder
		db, err := Open(t.Context(), path, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		return db, log.String(), err
	}
	_, _, err := open(newest)
	require.ErrorIs(t, err, ErrFormat)
	db, log, err := open(os.Getpagesize() - newest)
	require.NoError(t, err)
	defer db.Close()
	require.Contains(t, log, "one of the two meta pages")
	require.NotEmpty(t, get(t, db, "299"))
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	checkReachable(t, db)
}

// useDamaged opens a file with this content, and the log beside it if there is one, reads it and writes to it. It may be
// refused, but must not end the process.
func useDamaged(t *testing.T, path string, raw, wal []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	require.NoError(t, os.RemoveAll(path+logSuffix))
	if wal != nil {
		require.NoError(t, os.WriteFile(path+logSuffix, wal, 0o600))
	}
	refused := func(err error) {
		t.Helper()
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, errRecord) {
			require.ErrorIs(t, err, ErrFormat)
		}
	}
	db, err := Open(t.Context(), path, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		refused(err)
		return
	}
	_ = db.View(func(tx *Tx) error {
		b := tx.Bucket(testBucket)
		for i := 0; b != nil && i < 300; i++ {
			_ = len(b.Get([]byte(fmt.Sprint(i))))
		}
		return nil
	})
	_ = db.Update(t.Context(), put("k", "v"))
	if err := db.Close(); err != nil {
		refused(err)
	}
}

// Flipped bits in pages can be met at any time later, and in a file that a crash has left, when it is opened.
func TestDamagedPagesEndNoProcess(t *testing.T) {
	crashed, log, atRest := filledTwice(t)
	for name, files := range map[string][2][]byte{"at rest": {atRest, nil}, "after a crash": {crashed, log}} {
		t.Run(name, func(t *testing.T) {
			raw := files[0]
			page := os.Getpagesize()
			end := len(raw)
			root := page * int(binary.NativeEndian.Uint64(raw[newestMeta(t, raw)+pageHeader+metaRoot:]))
			for seed := range 40 {
				damaged := append([]byte(nil), raw...)
				for i := range 40 {
					at := 2*page + (seed*7919+i*104729)%(end-2*page)
					damaged[at] ^= byte(1 << (i % 8))
					// Page headers and element headers are where it hurts.
					start := 2*page + (seed*31+i)*page%(end-2*page)
					damaged[start+8+(i%40)] ^= byte(1 << (seed % 8))
				}
				// The format's bucket lies within the root's page. What bbolt reads there instead of its elements is memory of the
				// process, and harmless, but with the race detector, Go ends the process over such a pointer.
				copy(damaged[root:root+page], raw[root:])
				useDamaged(t, filepath.Join(t.TempDir(), "test.db"), damaged, files[1])
			}
		})
	}
}

func TestTheFileIsPrivateWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o777} {
		path := filepath.Join(t.TempDir(), "test.db")
		before := syscall.Umask(umask)
		db, err := Open(t.Context(), path, Options{})
		syscall.Umask(before)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
}
