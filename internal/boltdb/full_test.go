package boltdb

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// fullFile is on a disk that has no room for it behind a length.
type fullFile struct {
	osFile
	room int64
}

func (f fullFile) Allocate(_, to int64) error {
	if to > f.room {
		return syscall.ENOSPC
	}
	return nil
}

func (f fullFile) WriteAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.room {
		return 0, syscall.ENOSPC
	}
	return f.osFile.WriteAt(b, off)
}

// On a full disk, what makes room must be possible: to delete is to write. Whichever of the two files cannot grow.
func TestAFullDiskTakesDeletions(t *testing.T) {
	for name, room := range map[string]struct{ file, log int64 }{
		"the file":         {6 << 20, plenty},
		"its log":          {plenty, 5 << 20},
		"the file and log": {6 << 20, 5 << 20},
	} {
		t.Run(name, func(t *testing.T) { deleteOnAFullDisk(t, room.file, room.log) })
	}
}

func deleteOnAFullDisk(t *testing.T, ofFile, ofLog int64) {
	db := onFullDisk(t, ofFile, ofLog)
	var err error
	large := strings.Repeat("v", 100<<10)
	n := 0
	for ; err == nil; n++ {
		err = db.Update(t.Context(), put(fmt.Sprint(n), large))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	for i := range 600 {
		require.NoError(t, db.Update(t.Context(), put(fmt.Sprint("small", i%10), strings.Repeat("s", 100))), i)
	}
	for i := range n {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error { return Dirty(tx.Bucket(testBucket).Delete([]byte(fmt.Sprint(i)))) }), i)
	}
}

// On a full disk, a small write is not refused with a large one that shares its transaction.
func TestAFullDiskRefusesWhatIsTooLarge(t *testing.T) {
	db := onFullDisk(t, 6<<20, plenty)
	large := put("large", strings.Repeat("v", 5<<20))
	require.ErrorIs(t, db.Update(t.Context(), large), syscall.ENOSPC)
	writes := []func(*Tx) error{large, put("small", "v"), large, put("another", "v"), large}
	held, together := make(chan struct{}), make(chan struct{})
	go func() { _ = db.do(t.Context(), func() error { close(held); <-together; return nil }) }()
	<-held
	outcomes := make([]error, len(writes))
	var writing sync.WaitGroup
	for i, fn := range writes {
		writing.Go(func() { outcomes[i] = db.Update(t.Context(), fn) })
	}
	require.Eventually(t, func() bool { return len(db.queue) == len(writes) }, time.Minute, time.Millisecond)
	close(together)
	writing.Wait()
	for i, err := range outcomes {
		if i%2 == 0 {
			require.ErrorIs(t, err, syscall.ENOSPC)
		} else {
			require.NoError(t, err)
		}
	}
}

// plenty is room that nothing fills.
const plenty = 1 << 40

// onFullDisk opens a database on a disk with no room for its file, and for its log, behind a length.
func onFullDisk(t *testing.T, ofFile, ofLog int64) *DB {
	t.Helper()
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{
		areaSize: 4 << 20, checkpointBytes: 3 << 20, checkpointEvery: time.Hour,
		wrap: func(f *os.File) file {
			if strings.HasSuffix(f.Name(), logSuffix) {
				return fullFile{osFile{f}, ofLog}
			}
			return fullFile{osFile{f}, ofFile}
		},
		opened: func(bolt *bbolt.DB) {
			hookWrites(bolt, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
				if off+int64(len(b)) > ofFile {
					return 0, syscall.ENOSPC
				}
				return write(b, off)
			})
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// remove deletes keys in one transaction, as a sweep does.
func remove(t *testing.T, db *DB, from, to int) error {
	t.Helper()
	return db.Update(t.Context(), func(tx *Tx) error {
		for i := from; i < to; i++ {
			if err := tx.Bucket(testBucket).Delete(fmt.Appendf(nil, "%06d", i)); err != nil {
				return Dirty(err)
			}
		}
		return nil
	})
}

// Small writes take the last room, and still everything can be deleted, one key at a time or many.
func TestDeletionsNeedNoRoom(t *testing.T) {
	for _, step := range []int{1, 50, 500} {
		db := onFullDisk(t, 8<<20, plenty)
		n := 0
		var err error
		for ; err == nil; n++ {
			err = db.Update(t.Context(), put(fmt.Sprintf("%06d", n), strings.Repeat("v", 5000)))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		err = nil
		for i := 0; err == nil; i++ {
			err = db.Update(t.Context(), put(fmt.Sprintf("small%06d", i), strings.Repeat("v", 100)))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		for i := 0; i < n; i += step {
			require.NoError(t, remove(t, db, i, i+step), i)
		}
		require.NoError(t, db.Update(t.Context(), put("there is room again", strings.Repeat("v", 5000))))
	}
}

// fillInOrder puts small values in their order, in batches, until there is no room, and returns how many batches it put.
func fillInOrder(t *testing.T, db *DB, checkpointed int) (batches int) {
	t.Helper()
	for ; ; batches++ {
		err := db.Update(t.Context(), func(tx *Tx) error {
			b, err := tx.CreateBucketIfNotExists(testBucket)
			for i := 0; err == nil && i < 20; i++ {
				err = b.Put(fmt.Appendf(nil, "%06d", 20*batches+i), []byte(strings.Repeat("v", 300)))
			}
			return Dirty(err)
		})
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			return batches
		}
		if batches%checkpointed == checkpointed-1 {
			require.NoError(t, db.do(t.Context(), db.checkpointNow))
		}
	}
}

// What was acknowledged finds room in the file, although the pages of a new file are half full.
func TestWhatWasAcknowledgedFindsRoom(t *testing.T) {
	db := onFullDisk(t, 8<<20, plenty)
	require.Greater(t, fillInOrder(t, db, 1<<30), 200)
	require.NoError(t, db.do(t.Context(), db.checkpointNow))
}

// So does what takes more than a page, although the pages that are free do not lie side by side.
func TestLargeValuesFindRoom(t *testing.T) {
	for _, size := range []int{30_000, 50_000, 60_000} {
		for _, checkpointed := range []int{10, 100, 1000} {
			db := onFullDisk(t, 12<<20, plenty)
			var err error
			for n := 0; err == nil; n++ {
				if n%checkpointed == checkpointed-1 {
					require.NoError(t, db.do(t.Context(), db.checkpointNow))
				}
				err = db.Update(t.Context(), put(fmt.Sprintf("%06d", n), strings.Repeat("v", size)))
			}
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.NoError(t, db.do(t.Context(), db.checkpointNow))
		}
	}
}

// Each deletion changes a page of its own: a checkpoint would need as much room as the file has.
func TestScatteredDeletionsNeedNoRoom(t *testing.T) {
	for _, step := range []int{1, 100} {
		db := onFullDisk(t, 8<<20, plenty)
		n := fillInOrder(t, db, 20)
		require.NoError(t, db.do(t.Context(), db.checkpointNow))
		for i := 0; i < n; i += step {
			require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
				for j := i; j < min(i+step, n); j++ {
					if err := tx.Bucket(testBucket).Delete(fmt.Appendf(nil, "%06d", 20*j+10)); err != nil {
						return Dirty(err)
					}
				}
				return nil
			}))
		}
		err := db.do(t.Context(), db.checkpointNow)
		if err != nil { // the next one takes small steps
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.NoError(t, db.do(t.Context(), db.checkpointNow))
		}
		require.NoError(t, remove(t, db, 0, 20*n))
		require.NoError(t, db.Close())
	}
}

// The disk was full before the log came to its second area. The first one will do, once nothing in it is needed.
func TestADiskThatIsFullBeforeTheSecondArea(t *testing.T) {
	db := onFullDisk(t, plenty, areasAt+4<<20)
	var err error
	for i := 0; err == nil; i++ {
		err = db.Update(t.Context(), put(fmt.Sprintf("%06d", i), strings.Repeat("v", 100<<10)))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, db.do(t.Context(), db.checkpointNow))
	for i := range 5 {
		require.NoError(t, remove(t, db, i, i+1), i)
	}
}

// Where there is no room for a log, writes fail, reads go on, and the next write tries again.
func TestALogThatCannotBegin(t *testing.T) {
	var room atomic.Int64
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{wrap: onLog(func(f osFile) file {
		return fullFile{f, room.Load()}
	})})
	require.NoError(t, err)
	defer db.Close()
	for range 3 {
		require.ErrorIs(t, db.Update(t.Context(), put("k", "v")), syscall.ENOSPC)
		require.Empty(t, get(t, db, "k"))
	}
	room.Store(plenty)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.Equal(t, "v", get(t, db, "k"))
}
