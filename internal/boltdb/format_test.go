package boltdb

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func ensure(t *testing.T, db *bbolt.DB, version uint64, steps map[uint64]func(*bbolt.Tx) error) {
	t.Helper()
	_, err := ensureFormat(db, version, steps, false)
	require.NoError(t, err)
}

// oldestFormat is that of the oldest files that can be opened.
const oldestFormat = 2

// The first step of a migration must find the path paved.
func TestAnOlderFileIsBroughtUpToDate(t *testing.T) {
	fresh := func(t *testing.T) *bbolt.DB {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "test.db"), 0o600, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		ensure(t, db, 1, nil)
		return db
	}
	version := func(db *bbolt.DB) (v uint64) {
		require.NoError(t, db.View(func(tx *bbolt.Tx) (err error) { v, err = readVersion(tx); return err }))
		return v
	}
	mark := func(name string) func(tx *bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte(name)); return err }
	}
	has := func(db *bbolt.DB, name string) (there bool) {
		require.NoError(t, db.View(func(tx *bbolt.Tx) error { there = tx.Bucket([]byte(name)) != nil; return nil }))
		return there
	}

	t.Run("in steps", func(t *testing.T) {
		db := fresh(t)
		ensure(t, db, 3, map[uint64]func(*bbolt.Tx) error{1: mark("one"), 2: mark("two")})
		require.EqualValues(t, 3, version(db))
		require.True(t, has(db, "one") && has(db, "two"))
		_, err := ensureFormat(db, 2, nil, false)
		require.ErrorIs(t, err, ErrFormat)
		require.ErrorContains(t, err, "written by a newer dapr-bolt: it has format 3, this build reads up to format 2")
	})
	t.Run("or not at all", func(t *testing.T) {
		db := fresh(t)
		failed := errors.New("no")
		_, err := ensureFormat(db, 3, map[uint64]func(*bbolt.Tx) error{1: mark("one"), 2: func(*bbolt.Tx) error { return failed }}, false)
		require.ErrorIs(t, err, failed)
		require.ErrorContains(t, err, "bring it from format 2 to 3")
		require.EqualValues(t, 1, version(db))
		require.False(t, has(db, "one"))
	})
	t.Run("a step that is missing", func(t *testing.T) {
		db := fresh(t)
		_, err := ensureFormat(db, 2, nil, false)
		require.ErrorContains(t, err, "it has format 1, which this build cannot bring to format 2")
	})
	for v := uint64(oldestFormat); v < FormatVersion; v++ {
		require.NotNil(t, migrations[v], "format %d", v)
	}
}
