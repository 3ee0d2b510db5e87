package boltdb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// killed returns the path of a database as a kill leaves it, with k set to v.
func killed(t *testing.T, opts Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, opts)
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	abandon(db)
	require.FileExists(t, path+logSuffix)
	return path
}

func headerAt(t *testing.T, path string) header {
	t.Helper()
	f, err := os.Open(path + logSuffix)
	require.NoError(t, err)
	defer f.Close()
	h, err := (&wal{file: osFile{f}}).newest()
	require.NoError(t, err)
	require.NotNil(t, h)
	return *h
}

func TestACleanCloseLeavesOneFile(t *testing.T) {
	path := killed(t, Options{})
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, db, "k"))
	require.EqualValues(t, 1, db.Stats().Recoveries)
	require.NoError(t, db.Close())
	require.NoFileExists(t, path+logSuffix)
	require.Empty(t, check(t, path))
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, db, "k"))
	require.Zero(t, db.Stats().Recoveries)
	require.NoFileExists(t, path+logSuffix, "reading takes no log")
	require.NoError(t, db.Close())
}

func TestCheckAndCompactRecoverFirst(t *testing.T) {
	path := killed(t, Options{})
	require.Empty(t, check(t, path))
	require.NoFileExists(t, path+logSuffix)
	path = killed(t, Options{})
	_, _, err := Compact(t.Context(), path)
	require.NoError(t, err)
	require.NoFileExists(t, path+logSuffix)
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer db.Close()
	require.Equal(t, "v", get(t, db, "k"))
}

func TestAFileWithoutItsLogIsRefused(t *testing.T) {
	path := killed(t, Options{})
	require.NoError(t, os.Remove(path+logSuffix))
	_, err := Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "its log")
}

// spoilHeaders leaves no header of a log whole.
func spoilHeaders(t *testing.T, path string) (log []byte) {
	t.Helper()
	log, err := os.ReadFile(path + logSuffix)
	require.NoError(t, err)
	log[100]++
	log[headerSlots+100]++
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))
	return log
}

func TestALogWithoutAWholeHeader(t *testing.T) {
	path := killed(t, Options{})
	log := spoilHeaders(t, path)
	_, err := Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "is not there, or damaged")
	after, err := os.ReadFile(path + logSuffix)
	require.NoError(t, err)
	require.Equal(t, log, after)

	// Next to a file that was closed cleanly, it is one that a power failure has kept from beginning.
	path = fill(t, 10, 0)
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoFileExists(t, path+logSuffix)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.NoError(t, db.Close())
}

// Neither of them may be changed: somebody may still put them right.
func TestAFileWithTheLogOfAnotherIsRefused(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"another database": func(t *testing.T, path string) {
			require.NoError(t, os.Rename(killed(t, Options{}), path))
		},
		"a backup": func(t *testing.T, path string) {
			db, err := Open(t.Context(), path, Options{})
			require.NoError(t, err)
			copied := filepath.Join(t.TempDir(), "copy.db")
			require.NoError(t, db.Backup(t.Context(), copied))
			require.NoError(t, db.Update(t.Context(), put("k", "w")))
			abandon(db)
			require.NoError(t, os.Rename(copied, path))
		},
		"an older state": func(t *testing.T, path string) {
			older, err := os.ReadFile(path)
			require.NoError(t, err)
			db, err := Open(t.Context(), path, Options{})
			require.NoError(t, err)
			for range 10 {
				require.NoError(t, db.Update(t.Context(), put("k", "w")))
				require.NoError(t, db.do(t.Context(), func() error { return db.checkpointNow() }))
			}
			abandon(db)
			require.NoError(t, os.WriteFile(path, older, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := killed(t, Options{})
			replace(t, path)
			file, err := os.ReadFile(path)
			require.NoError(t, err)
			log, err := os.ReadFile(path + logSuffix)
			require.NoError(t, err)
			_, err = Open(t.Context(), path, Options{})
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, "its log")
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, file, after)
			after, err = os.ReadFile(path + logSuffix)
			require.NoError(t, err)
			require.Equal(t, log, after)
		})
	}
}

// Rule 6. As long as nothing was committed since the last checkpoint, the one before is whole, too.
func TestAHeaderThatIsHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	for checkpoints := range 2 {
		db, err := Open(t.Context(), path, Options{})
		require.NoError(t, err)
		require.NoError(t, db.Update(t.Context(), put("k", "v")))
		var slot int
		for range 1 + checkpoints {
			require.NoError(t, db.do(t.Context(), func() error {
				err := db.checkpointNow()
				slot = db.wal.slot
				return err
			}))
		}
		abandon(db)
		f, err := os.OpenFile(path+logSuffix, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(zeros[:headerSize/2], int64(slot)*headerSlots)
		require.NoError(t, errors.Join(err, f.Close()))
		db, err = Open(t.Context(), path, Options{})
		require.NoError(t, err)
		require.Equal(t, "v", get(t, db, "k"))
		abandon(db)
	}
}

// Rule 5. The epoch after the header's may have been begun when the database was killed.
func TestEveryRecoveryBeginsANewEpoch(t *testing.T) {
	path := killed(t, Options{})
	before := headerAt(t, path)
	for range 3 {
		db, err := Open(t.Context(), path, Options{})
		require.NoError(t, err)
		abandon(db)
		after := headerAt(t, path)
		require.Greater(t, after.epoch, before.epoch+1)
		before = after
	}
}

// A log that is idle is short, so that the next start is quick.
func TestACheckpointComesByItself(t *testing.T) {
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{checkpointEvery: time.Millisecond})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.Eventually(t, func() bool { return db.Stats().Checkpoints > 1 }, 5*time.Minute, time.Millisecond, "one as the log begins, and one by itself")
}

// What does not fit in the rest of an area is written to the next one, and what fits in none is refused.
func TestARecordThatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{areaSize: 64 << 10, checkpointEvery: time.Hour})
	require.NoError(t, err)
	value := strings.Repeat("v", 40<<10)
	for _, key := range []string{"a", "b", "c"} {
		require.NoError(t, db.Update(t.Context(), put(key, value)))
	}
	require.EqualValues(t, 3, db.Stats().Checkpoints, "one as the log begins, and one for each record but the first")
	require.ErrorContains(t, db.Update(t.Context(), put("large", value+value)), "allowed: 65536")
	require.NoError(t, db.Update(t.Context(), put("d", value)))
	abandon(db)
	db, err = Open(t.Context(), path, Options{areaSize: 64 << 10, checkpointEvery: time.Hour})
	require.NoError(t, err)
	defer db.Close()
	for _, key := range []string{"a", "b", "c", "d"} {
		require.Equal(t, value, get(t, db, key))
	}
	require.Empty(t, get(t, db, "large"))
}

// A log that was copied, or kept, while its file went on: the file, which was closed cleanly since, stays as it is.
func TestALogFromBeforeACleanClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	for _, end := range []func(db *DB){func(db *DB) { require.NoError(t, db.Close()) }, abandon} {
		db, err := Open(t.Context(), path, Options{})
		require.NoError(t, err)
		require.NoError(t, db.Update(t.Context(), put("k", "v")))
		end(db)
	}
	log, err := os.ReadFile(path + logSuffix)
	require.NoError(t, err)
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))

	_, err = Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, path+logSuffix)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, string(whole) == string(after), "a file that is refused stays as it was")

	require.NoError(t, os.Remove(path+logSuffix))
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, db, "k"))
	require.NoError(t, db.Close())
}
