package boltdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// writeHook is bbolt's hook between itself and the file, which it has for its own tests only.
func writeHook(bolt *bbolt.DB) *func(b []byte, off int64) (int, error) {
	hook := reflect.ValueOf(bolt).Elem().FieldByName("ops").Field(0)
	return reflect.NewAt(hook.Type(), unsafe.Pointer(hook.UnsafeAddr())).Interface().(*func([]byte, int64) (int, error))
}

// onWrite puts itself between bbolt and the file, however often that is opened.
func onWrite(t *testing.T, db *DB, write func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)) {
	t.Helper()
	require.NoError(t, db.do(t.Context(), func() error {
		db.opts.opened = func(bolt *bbolt.DB) { hookWrites(bolt, write) }
		db.opts.opened(db.bolt)
		return nil
	}))
}

func isMeta(off int64) bool { return off < 2*int64(syscall.Getpagesize()) }

func checkReachable(t *testing.T, db *DB) {
	t.Helper()
	require.NoError(t, soundPages(db))
}

// soundPages has bbolt look at all that its last transaction can reach, while it has no other.
func soundPages(db *DB) error {
	return db.do(context.Background(), func() error {
		err := db.finishCheckpoint()
		return errors.Join(err, db.bolt.View(func(tx *bbolt.Tx) error {
			for problem := range tx.Check() {
				err = problem
			}
			return err
		}))
	})
}

// onLog puts a file of a test's in the place of the log.
func onLog(wrap func(f osFile) file) func(f *os.File) file {
	return func(f *os.File) file {
		if strings.HasSuffix(f.Name(), logSuffix) {
			return wrap(osFile{f})
		}
		return osFile{f}
	}
}

// openBefore opens a database of one key.
func openBefore(t *testing.T, opts Options) *DB {
	t.Helper()
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, db.Update(t.Context(), put("k", "before")))
	return db
}

// requireAfterAKill opens a database again as a kill leaves it, and looks at two of its keys.
func requireAfterAKill(t *testing.T, db *DB, k, next string) {
	t.Helper()
	abandon(db)
	db, err := Open(t.Context(), db.Path(), Options{})
	require.NoError(t, err)
	require.Equal(t, k, get(t, db, "k"))
	require.Equal(t, next, get(t, db, "next"))
	require.NoError(t, db.Close())
}

// failingFile fails as a test says.
type failingFile struct {
	osFile
	write func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)
}

func (f failingFile) WriteAt(b []byte, off int64) (int, error) {
	return f.write(b, off, f.osFile.WriteAt)
}

// openLogOn opens a database of one key, whose log is written through a function.
func openLogOn(t *testing.T, write func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)) *DB {
	t.Helper()
	return openBefore(t, Options{wrap: onLog(func(f osFile) file { return failingFile{f, write} })})
}

// lossyDisk is a disk on which syncs fail: what they were to make last it may have or not, but the system shows it.
type lossyDisk struct {
	durable  []byte
	unsynced []diskWrite
	// fails are the syncs to come that fail; true: what was written is on the disk all the same.
	fails []bool
	// keeps: what would take a record back cannot be written.
	keeps bool
}

type lossyFile struct {
	osFile
	disk *lossyDisk
}

func (f lossyFile) WriteAt(b []byte, off int64) (int, error) {
	if f.disk.keeps && bytes.Equal(b, zeros[:sector]) {
		return 0, syscall.EIO
	}
	f.disk.unsynced = append(f.disk.unsynced, diskWrite{off: off, data: bytes.Clone(b)})
	return f.osFile.WriteAt(b, off)
}

func (f lossyFile) Sync() (err error) {
	reached := true
	if len(f.disk.fails) > 0 {
		reached, f.disk.fails, err = f.disk.fails[0], f.disk.fails[1:], syscall.EIO
	}
	for _, w := range f.disk.unsynced {
		if reached {
			f.disk.durable = writeTo(f.disk.durable, w.off, w.data)
		}
	}
	f.disk.unsynced = nil
	return err
}

// options makes a database keep its log on the disk.
func (d *lossyDisk) options() Options {
	return Options{checkpointEvery: time.Hour, wrap: onLog(func(f osFile) file { return lossyFile{f, d} })}
}

// After a failed sync, the system shows bytes that are not on the disk, and calls the next sync a success. A record that it
// happened to is taken out of the log; nothing else that was written there is at stake.
func TestARecordThatCannotBeSyncedIsTakenBack(t *testing.T) {
	disk := &lossyDisk{}
	db := openBefore(t, disk.options())
	disk.fails = []bool{false}
	require.ErrorIs(t, db.Update(t.Context(), put("k", "failed")), syscall.EIO)
	require.Equal(t, "before", get(t, db, "k"))
	// The second is that of taking it back.
	disk.fails = []bool{false, false}
	err := db.Update(t.Context(), put("k", "failed"))
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, err, ErrUnsure)
	require.Equal(t, "before", get(t, db, "k"))
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	requireAfterAKill(t, db, "before", "after")
}

// What the system shows of a log after a failed sync, a restart makes true on the disk before anything goes on from there.
func TestARestartSettlesWhatTheLogShows(t *testing.T) {
	for name, c := range map[string]struct {
		fails []bool
		keeps bool
		want  string
	}{
		"a record that is shown alone":                {[]bool{false}, true, "unsure"},
		"a record that is on the disk, and not shown": {[]bool{true, false}, false, "before"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "test.db")
			disk := &lossyDisk{}
			db, err := Open(t.Context(), path, disk.options())
			require.NoError(t, err)
			require.NoError(t, db.Update(t.Context(), put("k", "before")))
			require.NoError(t, db.do(t.Context(), db.checkpointNow))
			disk.fails, disk.keeps = c.fails, c.keeps
			require.ErrorIs(t, db.Update(t.Context(), put("k", "unsure")), ErrUnsure)
			abandon(db)
			disk.keeps = false
			db, err = Open(t.Context(), path, disk.options())
			require.NoError(t, err)
			require.Equal(t, c.want, get(t, db, "k"), "whether it took place nobody knew until now")
			require.NoError(t, db.Update(t.Context(), put("next", "after")))
			abandon(db)
			require.NoError(t, os.WriteFile(path+logSuffix, disk.durable, 0o600))
			requireAfterAKill(t, db, c.want, "after")
		})
	}
}

// A record that could be neither synced nor taken back is the last in its area until it can: no checkpoint moves on.
func TestNoCheckpointLeavesARecordBehindThatMayCount(t *testing.T) {
	disk := &lossyDisk{}
	db := openBefore(t, disk.options())
	require.NoError(t, db.do(t.Context(), func() error { disk.fails, disk.keeps = []bool{true}, true; return nil }))
	require.ErrorIs(t, db.Update(t.Context(), put("k", "failed")), ErrUnsure)
	require.ErrorIs(t, db.do(t.Context(), db.checkpointNow), syscall.EIO)
	require.NoError(t, db.do(t.Context(), func() error { disk.keeps = false; return nil }))
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	requireAfterAKill(t, db, "before", "after")
}

// A record that was written whole, although the system says otherwise, and cannot be taken back for want of room, may count.
func TestARecordThatWasWrittenWholeMayCount(t *testing.T) {
	var writes atomic.Int32
	db := openLogOn(t, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		switch writes.Add(-1) {
		case 1:
			n, _ := write(b, off)
			return n, syscall.EIO
		case 0:
			return 0, syscall.ENOSPC
		}
		return write(b, off)
	})
	writes.Store(2)
	require.ErrorIs(t, db.Update(t.Context(), put("k", "failed")), ErrUnsure)
	require.Equal(t, "before", get(t, db, "k"))
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	require.Equal(t, "before", get(t, db, "k"))
}

// Whatever step of a checkpoint fails: reads and writes go on, Ready says why, and once the disk works again so does
// everything, without a restart.
func TestACheckpointThatFails(t *testing.T) {
	for name, fails := range map[string]struct {
		when func(off int64) bool
		// late: the bytes are in the file, and only the answer is an error, as when a sync fails.
		late bool
	}{
		"a page cannot be written":                     {when: func(off int64) bool { return !isMeta(off) }},
		"a page cannot be synced":                      {when: func(off int64) bool { return !isMeta(off) }, late: true},
		"the page that makes it count, not written":    {when: isMeta},
		"the page that makes it count, perhaps synced": {when: isMeta, late: true},
	} {
		t.Run(name, func(t *testing.T) {
			var broken atomic.Bool
			db := openBefore(t, Options{wrap: func(f *os.File) file {
				return failingFile{osFile{f}, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
					if broken.Load() && !strings.HasSuffix(f.Name(), logSuffix) {
						return 0, syscall.EIO
					}
					return write(b, off)
				}}
			}})
			onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
				if !broken.Load() || !fails.when(off) {
					return write(b, off)
				}
				if fails.late {
					if n, err := write(b, off); err != nil {
						return n, err
					}
				}
				return 0, syscall.EIO
			})
			broken.Store(true)
			err := db.do(t.Context(), db.checkpointNow)
			require.ErrorIs(t, err, syscall.EIO)
			require.ErrorContains(t, err, "commit: ")
			for range 2 {
				require.Equal(t, "before", get(t, db, "k"))
				require.NoError(t, db.Update(t.Context(), put("more", "meanwhile")))
				require.ErrorIs(t, db.Ready(t.Context()), syscall.EIO)
			}

			broken.Store(false)
			require.NoError(t, db.do(t.Context(), db.checkpointNow))
			require.NoError(t, db.Ready(t.Context()))
			for i := range 100 {
				require.NoError(t, db.Update(t.Context(), put(fmt.Sprint(i), "x")))
			}
			checkReachable(t, db)
			require.NoError(t, db.Close())
			again, err := Open(t.Context(), db.Path(), Options{})
			require.NoError(t, err)
			defer again.Close()
			require.Equal(t, "before", get(t, again, "k"))
			require.Equal(t, "meanwhile", get(t, again, "more"))
			checkReachable(t, again)
		})
	}
}

// What a function refuses may be what its neighbour wrote in the same transaction, such as an ETag. When the commit fails,
// that never existed, and nobody may be told of it.
func TestWhoSharesAFailedCommitFailsWithIt(t *testing.T) {
	var broken atomic.Bool
	db := openLogOn(t, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if broken.CompareAndSwap(true, false) {
			return 0, syscall.EIO
		}
		return write(b, off)
	})
	var callers sync.WaitGroup
	errs := make([]error, 3)
	call := func(i int, fn func(tx *Tx) error) {
		callers.Go(func() { errs[i] = db.Update(context.Background(), fn) })
	}
	entered, release := make(chan struct{}), make(chan struct{})
	call(0, func(tx *Tx) error {
		close(entered)
		<-release
		return put("k", "first")(tx)
	})
	<-entered
	queued := func(n int) {
		require.Eventually(t, func() bool { return len(db.queue) == n }, 5*time.Minute, time.Millisecond)
	}
	committed := false
	call(1, func(tx *Tx) error {
		broken.Store(true)
		tx.OnCommit(func() { committed = true })
		return put("k", "never")(tx)
	})
	queued(1)
	call(2, func(tx *Tx) error { return fmt.Errorf("k is %s", tx.Bucket(testBucket).Get([]byte("k"))) })
	queued(2)
	close(release)
	callers.Wait()
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], syscall.EIO)
	require.ErrorIs(t, errs[2], syscall.EIO)
	require.False(t, committed)
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	require.Equal(t, "first", get(t, db, "k"))
}

func TestReadyKnowsWhyUntilThereIsRoomAgain(t *testing.T) {
	var full atomic.Bool
	db := openLogOn(t, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		// Small records find a place in what the log has; large ones do not.
		if full.Load() && len(b) > 64<<10 {
			return 0, syscall.ENOSPC
		}
		return write(b, off)
	})
	require.NoError(t, db.Ready(t.Context()))
	full.Store(true)
	large := string(make([]byte, 100<<10))
	require.ErrorIs(t, db.Update(t.Context(), put("large", large)), syscall.ENOSPC)
	require.ErrorIs(t, db.Ready(t.Context()), syscall.ENOSPC)
	require.NoError(t, db.Update(t.Context(), put("small", "x")))
	require.ErrorIs(t, db.Ready(t.Context()), syscall.ENOSPC, "a small write does not mean that there is room")
	require.Equal(t, "x", get(t, db, "small"))
	full.Store(false)
	require.NoError(t, db.Ready(t.Context()))
	require.Nil(t, db.failure.Load())
	require.NoError(t, db.View(func(tx *Tx) error {
		require.Nil(t, tx.Bucket(bucketFormat).Get(keyWriteProbe), "what Ready wrote is gone again")
		return nil
	}))
	require.NoError(t, db.Update(t.Context(), put("large", large)))
}

// While the disk takes its time, reads go on, callers can leave, and what was taken is seen through.
func TestASlowDisk(t *testing.T) {
	writing, goOn := make(chan struct{}), make(chan struct{})
	var slowed atomic.Bool
	db := openLogOn(t, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if slowed.CompareAndSwap(true, false) {
			close(writing)
			<-goOn
		}
		return write(b, off)
	})
	slowed.Store(true)
	var slow sync.WaitGroup
	var slowErr error
	slow.Go(func() { slowErr = db.Update(context.Background(), put("k", "slow")) })
	<-writing
	require.Equal(t, "before", get(t, db, "k"))
	require.NoError(t, db.Ready(t.Context()))
	impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, db.Update(impatient, put("k", "abandoned")), context.DeadlineExceeded)
	close(goOn)
	slow.Wait()
	require.NoError(t, slowErr)
	require.Equal(t, "slow", get(t, db, "k"))
}

// While a checkpoint takes its time, everything goes on.
func TestASlowCheckpoint(t *testing.T) {
	db := open(t)
	require.NoError(t, db.Update(t.Context(), put("k", "before")))
	require.NoError(t, db.Update(t.Context(), put("gone", "v")))
	writing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		once.Do(func() {
			close(writing)
			<-goOn
		})
		return write(b, off)
	})
	require.NoError(t, db.do(t.Context(), db.beginCheckpoint))
	<-writing
	require.NoError(t, db.Update(t.Context(), put("k", "meanwhile")))
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error { return tx.Bucket(testBucket).Delete([]byte("gone")) }))
	require.Equal(t, "meanwhile", get(t, db, "k"))
	close(goOn)
	require.NoError(t, db.do(t.Context(), db.finishCheckpoint))
	require.Equal(t, "meanwhile", get(t, db, "k"))
	require.Empty(t, get(t, db, "gone"))
}

func TestAPanicWhileReadingIsAnError(t *testing.T) {
	db := open(t)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	err := db.View(func(*Tx) error { panic("page 7 already freed") })
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, "page 7 already freed")
	// As a page number does that a flipped bit has sent far out of the file.
	far, err := unix.Mmap(int(db.disk.(osFile).Fd()), 0, 1<<30, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(far)) }()
	err = db.View(func(*Tx) error { return fmt.Errorf("it could be read: %d", far[len(far)-1]) })
	require.ErrorIs(t, err, ErrDamaged, "a fault, which would end the process")
	require.Equal(t, "v", get(t, db, "k"))
	require.NoError(t, db.Update(t.Context(), put("k", "w")))
}

func TestReadySaysThatTheLogWasRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.NoError(t, db.Ready(t.Context()))
	elsewhere := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.Rename(path+logSuffix, elsewhere))
	require.ErrorContains(t, db.Ready(t.Context()), path+logSuffix+" was removed or replaced")
	require.NoError(t, os.WriteFile(path+logSuffix, nil, 0o600))
	require.ErrorContains(t, db.Ready(t.Context()), path+logSuffix+" was removed or replaced")
	require.NoError(t, os.Rename(elsewhere, path+logSuffix))
	require.NoError(t, db.Ready(t.Context()))

	require.NoError(t, os.Remove(path+logSuffix))
	require.NoError(t, db.Update(t.Context(), put("k", "w")))
	require.NoError(t, db.Close())
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer db.Close()
	require.Equal(t, "w", get(t, db, "k"), "what the stop was said to do")
	require.NoError(t, db.Update(t.Context(), put("k", "x")))
	require.NoError(t, db.Ready(t.Context()))
}
