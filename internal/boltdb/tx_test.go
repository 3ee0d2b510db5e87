package boltdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// txModel is a database beside a bbolt file, to which the same is done.
type txModel struct {
	db   *DB
	bolt *bbolt.DB
}

// write is one thing that a transaction does.
type write struct {
	path  []string
	what  int
	key   []byte
	value []byte
}

// within is what this package's transactions and buckets, and bbolt's, have in common.
type within[B any] interface {
	CreateBucketIfNotExists(name []byte) (B, error)
}

type bucketOf[B any] interface {
	within[B]
	Get(key []byte) []byte
	Put(key, value []byte) error
	Delete(key []byte) error
	NextSequence() (uint64, error)
}

func doAll[B bucketOf[B]](t *rapid.T, tx within[B], writes []write) {
	for _, w := range writes {
		b, err := tx.CreateBucketIfNotExists([]byte(w.path[0]))
		for _, name := range w.path[1:] {
			require.NoError(t, err)
			b, err = b.CreateBucketIfNotExists([]byte(name))
		}
		require.NoError(t, err)
		switch {
		case w.what < 5:
			err = b.Put(w.key, w.value)
			require.Equal(t, w.value, b.Get(w.key))
		case w.what < 9:
			err = b.Delete(w.key)
			require.Nil(t, b.Get(w.key))
		default:
			_, err = b.NextSequence()
		}
		require.NoError(t, err)
	}
}

// change does some writes to both.
func (m *txModel) change(t *rapid.T) {
	names := rapid.SampledFrom([]string{"a", "b", "c"})
	writes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) write {
		return write{
			path: rapid.SliceOfN(names, 1, 2).Draw(t, "path"),
			what: rapid.IntRange(0, 9).Draw(t, "what"),
			key:  fmt.Appendf(nil, "key%d", rapid.IntRange(0, 30).Draw(t, "key")),
			// Some need pages of their own.
			value: bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.SampledFrom([]int{0, 10, 700, 9000}).Draw(t, "size")),
		}
	}), 1, 12).Draw(t, "writes")
	refuse := rapid.IntRange(0, 9).Draw(t, "refuse") == 0
	errRefused := errors.New("refused")
	err := m.db.Update(context.Background(), func(tx *Tx) error {
		doAll[*Bucket](t, tx, writes)
		if refuse {
			return Dirty(errRefused)
		}
		return nil
	})
	if refuse {
		require.ErrorIs(t, err, errRefused)
		return
	}
	require.NoError(t, err)
	require.NoError(t, m.bolt.Update(func(tx *bbolt.Tx) error {
		doAll[*bbolt.Bucket](t, tx, writes)
		return nil
	}))
}

// same tells how two buckets differ, in every way there is to read them.
func same(b *Bucket, want *bbolt.Bucket, seeks [][]byte) error {
	if b == nil || want == nil {
		if (want == nil) != (b == nil) {
			return fmt.Errorf("there is none in one of them")
		}
		return nil
	}
	if want.Sequence() != b.Sequence() {
		return fmt.Errorf("sequence %d, want %d", b.Sequence(), want.Sequence())
	}
	c, d := want.Cursor(), b.Cursor()
	differ := func(what string, k, v, k2, v2 []byte) error {
		if !bytes.Equal(k, k2) || !bytes.Equal(v, v2) || (k == nil) != (k2 == nil) || (v == nil) != (v2 == nil) {
			return fmt.Errorf("%s: %s=%.3q, want %s=%.3q", what, k2, v2, k, v)
		}
		return nil
	}
	k, v := c.First()
	k2, v2 := d.First()
	for ; k != nil || k2 != nil; k, v = c.Next() {
		if err := differ("forward", k, v, k2, v2); err != nil {
			return err
		}
		if v == nil {
			if err := same(b.Bucket(k), want.Bucket(k), seeks); err != nil {
				return fmt.Errorf("in %s: %w", k, err)
			}
		}
		k2, v2 = d.Next()
	}
	k2, v2 = d.Last()
	for k, v := c.Last(); k != nil || k2 != nil; k, v = c.Prev() {
		if err := differ("backward", k, v, k2, v2); err != nil {
			return err
		}
		k2, v2 = d.Prev()
	}
	for _, at := range seeks {
		k, v := c.Seek(at)
		k2, v2 := d.Seek(at)
		err := differ("seek "+string(at), k, v, k2, v2)
		if k != nil && err == nil {
			k, v = c.Next()
			k2, v2 = d.Next()
			err = differ("next of "+string(at), k, v, k2, v2)
		}
		if err = errors.Join(err, differ("get "+string(at), at, want.Get(at), at, b.Get(at))); err != nil {
			return err
		}
	}
	return nil
}

func (m *txModel) check(t *rapid.T) {
	seeks := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 35), func(i int) []byte { return fmt.Appendf(nil, "key%d", i) }), 3, 3).Draw(t, "seeks")
	require.NoError(t, m.bolt.View(func(want *bbolt.Tx) error {
		return m.db.View(func(tx *Tx) error {
			for _, name := range []string{"a", "b", "c", "missing"} {
				if err := same(tx.Bucket([]byte(name)), want.Bucket([]byte(name)), seeks); err != nil {
					return fmt.Errorf("in %s: %w", name, err)
				}
			}
			return nil
		})
	}))
}

// Whatever of what was written is in the file already: it reads as bbolt's file does, while checkpoints come and go, and after
// a kill at any moment of them.
func TestWhatLiesOverTheFileReadsAsTheFileWould(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		opts := Options{Logger: slog.New(slog.DiscardHandler), areaSize: 1 << 20, checkpointStep: 20 << 10, checkpointEvery: time.Hour}
		db, err := Open(context.Background(), path, opts)
		require.NoError(t, err)
		bolt, err := bbolt.Open(path+".model", 0o600, &bbolt.Options{NoSync: true})
		require.NoError(t, err)
		m := &txModel{db, bolt}
		defer func() { require.NoError(t, errors.Join(m.db.Close(), m.bolt.Close())) }()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				if m.db.wal != nil {
					require.NoError(t, m.db.do(context.Background(), m.db.beginCheckpoint))
				}
			case 1:
				require.NoError(t, m.db.do(context.Background(), m.db.finishCheckpoint))
			case 2:
				abandon(m.db)
				m.db, err = Open(context.Background(), path, opts)
				require.NoError(t, err)
			case 3:
				require.NoError(t, m.db.Close())
				m.db, err = Open(context.Background(), path, opts)
				require.NoError(t, err)
			default:
				m.change(t)
			}
			m.check(t)
		}
	})
}

// A cursor stays where it is while other buckets are written to, which changes the tree that it walks.
func TestACursorWalksOnBesideWritesToOtherBuckets(t *testing.T) {
	db := open(t)
	key := func(i int) []byte { return fmt.Appendf(nil, "key%04d", i) }
	const keys = 500
	fill := func(from int) {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			for i := from; i < keys; i += 3 {
				err = errors.Join(err, b.Put(key(i), []byte{1}))
			}
			return Dirty(err)
		}))
	}
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		_, err := tx.CreateBucket([]byte("a"))
		return Dirty(err)
	}))
	fill(0)
	require.NoError(t, db.do(t.Context(), db.checkpointNow))
	fill(1)
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		b := tx.Bucket([]byte("b"))
		for i := 2; i < keys; i += 3 {
			require.NoError(t, b.Put(key(i), []byte{1}))
		}
		before := tx.Bucket([]byte("a"))
		after, err := tx.CreateBucket([]byte("c"))
		require.NoError(t, err)
		write := func(i int) {
			require.NoError(t, before.Put(key(i), []byte{1}))
			require.NoError(t, after.Put(key(i), []byte{1}))
			require.NoError(t, before.Delete(key(i-7)))
		}
		c := b.Cursor()
		i := 0
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			require.Equal(t, string(key(i)), string(k))
			write(i)
			i++
		}
		require.Equal(t, keys, i)
		for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
			i--
			require.Equal(t, string(key(i)), string(k))
			write(keys + i)
		}
		require.Zero(t, i)
		return nil
	}))
}

// It says that there may be keys where all of them were deleted since the last checkpoint, which it does not walk past.
func TestMayHaveCountsDeletedKeys(t *testing.T) {
	db := open(t)
	update := func(fn func(b *Bucket) error) {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			b, err := tx.CreateBucketIfNotExists(testBucket)
			return Dirty(errors.Join(err, fn(b)))
		}))
	}
	requireOnly := func(prefixes string) {
		update(func(b *Bucket) error {
			for _, prefix := range "abcd" {
				require.Equal(t, strings.ContainsRune(prefixes, prefix), b.MayHave([]byte(string(prefix))), "%c", prefix)
			}
			return nil
		})
	}
	requireOnly("")
	update(func(b *Bucket) error { return b.Put([]byte("c"), nil) })
	requireOnly("c")
	update(func(b *Bucket) error { return errors.Join(b.Put([]byte("b1"), nil), b.Put([]byte("b2"), nil)) })
	requireOnly("bc")
	require.NoError(t, db.do(t.Context(), db.checkpointNow))
	requireOnly("bc")
	update(func(b *Bucket) error { return errors.Join(b.Delete([]byte("b1")), b.Delete([]byte("b2"))) })
	requireOnly("bc")
	require.NoError(t, db.do(t.Context(), db.checkpointNow))
	requireOnly("c")
}
