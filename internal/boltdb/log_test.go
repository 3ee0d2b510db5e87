package boltdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
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

// spoilHeader damages the header of a log.
func spoilHeader(t *testing.T, path string) (log []byte) {
	t.Helper()
	log, err := os.ReadFile(path + logSuffix)
	require.NoError(t, err)
	log[100]++
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))
	return log
}

func TestALogWithoutAWholeHeader(t *testing.T) {
	path := killed(t, Options{})
	log := spoilHeader(t, path)
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

// A log that is idle is short, so that the next start is quick.
func TestACheckpointComesByItself(t *testing.T) {
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{checkpointEvery: time.Millisecond})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.Eventually(t, func() bool { return db.Stats().Checkpoints > 0 }, 5*time.Minute, time.Millisecond)
}

// What does not fit in the rest of an area is written to the next one, and what fits in none to a log of its own.
func TestARecordThatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{areaSize: 64 << 10, checkpointEvery: time.Hour})
	require.NoError(t, err)
	value := strings.Repeat("v", 40<<10)
	for _, key := range []string{"a", "b", "c"} {
		require.NoError(t, db.Update(t.Context(), put(key, value)))
	}
	require.NoError(t, db.do(t.Context(), db.finishCheckpoint))
	require.EqualValues(t, 2, db.Stats().Checkpoints, "one for each record but the first")
	require.NoError(t, db.Update(t.Context(), put("large", value+value)))
	require.Equal(t, value+value, get(t, db, "large"))
	require.NoError(t, db.Update(t.Context(), put("d", value)))
	abandon(db)
	db, err = Open(t.Context(), path, Options{areaSize: 64 << 10, checkpointEvery: time.Hour})
	require.NoError(t, err)
	defer db.Close()
	for _, key := range []string{"a", "b", "c", "d"} {
		require.Equal(t, value, get(t, db, key))
	}
	require.Equal(t, value+value, get(t, db, "large"))
}

// A log that was copied, or kept, while its file went on, is of no use once the file was closed cleanly.
func TestALogFromBeforeACleanClose(t *testing.T) {
	path := killed(t, Options{})
	log, err := os.ReadFile(path + logSuffix)
	require.NoError(t, err)
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "w")))
	require.NoError(t, db.Close())
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))

	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "w", get(t, db, "k"))
	require.NoFileExists(t, path+logSuffix)

	// Nor is it of the log that comes next.
	require.NoError(t, db.Update(t.Context(), put("k", "x")))
	abandon(db)
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))
	_, err = Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, path+logSuffix+" is of another file")
}

// A record in the middle of what is needed that cannot be read is no end of the log.
func TestALogThatIsDamagedInTheMiddleIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	hold := make(chan struct{})
	var once sync.Once
	require.NoError(t, db.Update(t.Context(), put("a", "v")))
	require.NoError(t, db.Update(t.Context(), put("b", "v")))
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		once.Do(func() { <-hold })
		return 0, syscall.EIO
	})
	require.NoError(t, db.do(t.Context(), db.beginCheckpoint))
	require.NoError(t, db.Update(t.Context(), put("c", "v")))
	log, err := os.ReadFile(path + logSuffix)
	require.NoError(t, err)
	close(hold)
	abandon(db)
	log[areasAt+sector+recordHeader]++ // of b
	require.NoError(t, os.WriteFile(path+logSuffix, log, 0o600))
	_, err = Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "lacks what was written after record 1")
}

// Keys that come and go between two checkpoints take no memory, and after a crash no more than writes may.
func TestARecoveryTakesNoMemoryForEachKeyThatCameAndWent(t *testing.T) {
	path := killed(t, Options{})
	db, err := Open(t.Context(), path, Options{checkpointBytes: areaSize - 1<<20, checkpointEvery: time.Hour})
	require.NoError(t, err)
	long := strings.Repeat("x", 250)
	for i := range 70 {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			b := tx.Bucket(testBucket)
			var err error
			for j := range 1000 {
				key := fmt.Appendf(nil, "%d %d %s", i, j, long)
				err = errors.Join(err, b.Put(key, nil), b.Delete(key))
			}
			return errors.Join(err, b.Delete([]byte("k")), b.Put([]byte("other"), []byte("v")))
		}))
	}
	abandon(db)
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer db.Close()
	require.LessOrEqual(t, db.overlay.Load().bytes, int64(maxOverlay)+maxOverlay/10)
	require.Empty(t, get(t, db, "k"))
	require.Equal(t, "v", get(t, db, "other"))
	require.NoError(t, db.View(func(tx *Tx) error {
		keys := 0
		err := tx.Bucket(testBucket).ForEach(func(_, _ []byte) error { keys++; return nil })
		require.Equal(t, 1, keys)
		return err
	}))
}
