package boltdb

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkCommit is one small write at a time, in a file of which nothing was deleted, and in one from which a backlog of
// 400 MiB is gone.
func BenchmarkCommit(b *testing.B) {
	const pages, step = 100_000, 3000
	for _, bench := range []struct {
		name   string
		before func(db *DB)
	}{
		{"fresh", func(*DB) {}},
		{"after a backlog", func(db *DB) {
			for i := 0; i < 3*pages; i += step {
				fillRange(b, db, i, i+step)
			}
			for i := 0; i < 3*pages; i += step {
				dropRange(b, db, i, i+step)
			}
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			db := open(b)
			bench.before(db)
			for b.Loop() {
				require.NoError(b, db.Update(b.Context(), put("k", "v")))
			}
		})
	}
}

func number(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

// fillRange and dropRange work on entries of which three take a page.
func fillRange(t testing.TB, db *DB, from, to int) {
	t.Helper()
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		b, err := tx.CreateBucketIfNotExists(testBucket)
		require.NoError(t, err)
		b.SetFillPercent(1)
		for i := from; i < to; i++ {
			require.NoError(t, b.Put(number(i), zeros[:1300]))
		}
		return nil
	}))
}

func dropRange(t testing.TB, db *DB, from, to int) {
	t.Helper()
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		for i := from; i < to; i++ {
			require.NoError(t, tx.Bucket(testBucket).Delete(number(i)))
		}
		return nil
	}))
}
