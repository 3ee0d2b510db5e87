package boltdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	require.NoError(t, db.View(func(tx *Tx) error {
		for problem := range tx.tx.Check() {
			t.Error(problem)
		}
		return nil
	}))
}

// hookedSync is a file of which a test hears before it is synced, and whose sync fails if the test says so.
type hookedSync struct {
	osFile
	hook func(log bool) error
}

func (f hookedSync) Sync() error {
	if err := f.hook(strings.HasSuffix(f.Name(), logSuffix)); err != nil {
		return err
	}
	return f.osFile.Sync()
}

// openHooked opens a database of one key.
func openHooked(t *testing.T, opts Options, hook func(log bool) error) *DB {
	t.Helper()
	opts.wrap = func(f *os.File) file { return hookedSync{osFile{f}, hook} }
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	require.NoError(t, db.Update(t.Context(), put("k", "before")))
	return db
}

// Rule 7. After a failed sync, the system shows bytes that are not on the disk, and calls the next sync a success: only what
// is opened anew can be trusted.
func TestAFailedSyncIsNotTriedAgain(t *testing.T) {
	for name, step := range map[string]func(db *DB) error{
		"of a record":     func(db *DB) error { return db.Update(context.Background(), put("k", "failed")) },
		"of a checkpoint": func(db *DB) error { return db.do(context.Background(), db.checkpointNow) },
		"as the log ends": func(db *DB) error { return db.do(context.Background(), db.endLog) },
	} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			db := openHooked(t, Options{}, func(bool) error {
				if armed.CompareAndSwap(true, false) {
					return syscall.EIO
				}
				return nil
			})
			armed.Store(true)
			require.ErrorIs(t, step(db), syscall.EIO)
			require.NoError(t, db.Update(t.Context(), put("next", "after")))
			require.EqualValues(t, 1, db.Stats().Recoveries, "it was opened anew")
			require.Equal(t, "before", get(t, db, "k"))
		})
	}
}

// Rule 7. Of two who sync a file at a time, the system tells one of an error: a checkpoint whose sync was called a success
// does not count if the file has become uncertain meanwhile.
func TestACheckpointThatAFailureMeetsDoesNotCount(t *testing.T) {
	const sound, begun, failing = 0, 1, 2
	var disk atomic.Int32
	synced, failed := make(chan struct{}), make(chan struct{})
	db := openHooked(t, Options{}, func(log bool) error {
		switch {
		case disk.Load() == begun && !log:
			close(synced)
			<-failed
		case disk.CompareAndSwap(begun, failing):
			close(failed)
			return syscall.EIO
		case disk.Load() == failing && !log:
			return syscall.EIO // of what the checkpoint has lost
		}
		return nil
	})
	before := headerAt(t, db.Path())
	disk.Store(begun)
	require.NoError(t, db.do(t.Context(), db.beginCheckpoint))
	<-synced
	require.ErrorIs(t, db.Update(t.Context(), put("k", "failed")), ErrUnsure)
	require.NoError(t, db.do(t.Context(), db.finishCheckpoint))
	require.Equal(t, before, headerAt(t, db.Path()))
	disk.Store(sound)
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	require.Equal(t, "before", get(t, db, "k"))
}

// What is uncertain makes no checkpoint, however often that is due: it may hold what was refused.
func TestAnUncertainFileMakesNoCheckpoint(t *testing.T) {
	var broken atomic.Bool
	db := openHooked(t, Options{checkpointCommits: 2}, func(log bool) error {
		if log && broken.Load() {
			return syscall.EIO
		}
		return nil
	})
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if bytes.Contains(b, []byte("refused")) {
			broken.Store(true)
			return 0, syscall.EIO
		}
		return write(b, off)
	})
	var before, after uint64
	epoch := func(e *uint64) func() error { return func() error { *e = db.wal.epoch; return nil } }
	require.NoError(t, db.do(t.Context(), epoch(&before)))
	require.ErrorIs(t, db.Update(t.Context(), put("k", "refused")), ErrUnsure)
	require.NoError(t, db.do(t.Context(), epoch(&after)))
	require.Equal(t, before, after)
	broken.Store(false)
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	require.Equal(t, "before", get(t, db, "k"))
}

// Behind an area that is full to its end, the other one begins, whose records may be all that there is.
func TestAFullAreaIsNotWrittenBehind(t *testing.T) {
	const area = 64 << 10
	var armed atomic.Bool
	filled := make(chan struct{})
	db := openHooked(t, Options{areaSize: area}, func(log bool) error {
		if !log && armed.CompareAndSwap(true, false) {
			<-filled
			return syscall.EIO
		}
		return nil
	})
	armed.Store(true)
	require.NoError(t, db.do(t.Context(), db.beginCheckpoint))
	require.NoError(t, db.Update(t.Context(), put("fills", strings.Repeat("v", area-sector))))
	require.ErrorIs(t, db.do(t.Context(), func() error {
		close(filled)
		if db.wal.at != db.wal.areaAt(1) {
			return fmt.Errorf("the area is full up to %d", db.wal.at)
		}
		return db.finishCheckpoint()
	}), syscall.EIO)
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	require.Equal(t, "before", get(t, db, "k"))
	require.Len(t, get(t, db, "fills"), area-sector)
}

// failingFile cannot be written at some places.
type failingFile struct {
	osFile
	fails func(off int64) bool
}

func (f failingFile) WriteAt(b []byte, off int64) (int, error) {
	if f.fails(off) {
		return 0, syscall.EIO
	}
	return f.osFile.WriteAt(b, off)
}

// Whatever step of a commit fails: the functions hear of it, nothing of the transaction is seen, reads go on, Ready says
// why, and once the disk works again so does everything, without a restart.
func TestAFailedCommitLeavesNothing(t *testing.T) {
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
			db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{wrap: func(f *os.File) file {
				return failingFile{osFile{f}, func(off int64) bool { return broken.Load() && f.Name()[len(f.Name())-3:] == ".db" && fails.when(off) }}
			}})
			require.NoError(t, err)
			require.NoError(t, db.Update(t.Context(), put("k", "before")))
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
			committed := false
			err = db.Update(t.Context(), func(tx *Tx) error {
				tx.OnCommit(func() { committed = true })
				return errors.Join(put("k", "failed")(tx), put("more", "failed")(tx))
			})
			require.ErrorIs(t, err, syscall.EIO)
			require.ErrorContains(t, err, "commit: ")
			require.False(t, committed)
			if err := db.View(func(tx *Tx) error {
				require.Equal(t, "before", string(tx.Bucket(testBucket).Get([]byte("k"))), "it is not seen for an instant")
				return nil
			}); err != nil {
				require.True(t, fails.when(0), "reads go on: %v", err)
			}
			require.ErrorIs(t, db.Ready(t.Context()), syscall.EIO)

			broken.Store(false)
			// A transaction that failed must not count, whoever comes first.
			require.NoError(t, db.Update(t.Context(), put("next", "after")))
			require.Equal(t, "before", get(t, db, "k"))
			require.Empty(t, get(t, db, "more"))
			require.Equal(t, "after", get(t, db, "next"))
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
			require.Equal(t, "after", get(t, again, "next"))
			checkReachable(t, again)
		})
	}
}

// What a function refuses may be what its neighbour wrote in the same transaction, such as an ETag. When the commit fails,
// that never existed, and nobody may be told of it.
func TestWhoSharesAFailedCommitFailsWithIt(t *testing.T) {
	db := open(t)
	require.NoError(t, db.Update(t.Context(), put("k", "before")))
	var broken atomic.Bool
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if broken.Load() {
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
	call(1, func(tx *Tx) error {
		broken.Store(true)
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
	broken.Store(false)
	require.NoError(t, db.Update(t.Context(), put("next", "after")))
	require.Equal(t, "first", get(t, db, "k"))
}

func TestReadyKnowsWhyUntilThereIsRoomAgain(t *testing.T) {
	db := open(t)
	require.NoError(t, db.Ready(t.Context()))
	var full atomic.Bool
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		// Small pages find a place in what the file has; large ones do not.
		if full.Load() && len(b) > 64<<10 {
			return 0, syscall.ENOSPC
		}
		return write(b, off)
	})
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
	db := open(t)
	require.NoError(t, db.Update(t.Context(), put("k", "before")))
	writing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		once.Do(func() {
			close(writing)
			<-goOn
		})
		return write(b, off)
	})
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

// failBesideDamage has a commit fail inside bbolt while a page of an acknowledged write is damaged: bbolt then looks through
// all pages in a goroutine of its own, whose panic nobody can catch.
func failBesideDamage(path string) {
	db, err := Open(context.Background(), path, Options{opened: func(bolt *bbolt.DB) {
		hookWrites(bolt, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
			if bytes.Contains(b, []byte("fails")) {
				return 0, syscall.EIO
			}
			return write(b, off)
		})
	}})
	if err == nil {
		err = db.Update(context.Background(), put("k", string(make([]byte, 8<<10))))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("acknowledged")
	_ = db.View(func(tx *Tx) error {
		_, err = db.disk.WriteAt(bytes.Repeat([]byte{0xff}, pageHeader), int64(tx.tx.Bucket(testBucket).Root())*int64(db.bolt.Info().PageSize))
		return err
	})
	err = db.Update(context.Background(), func(tx *Tx) error { return Dirty(tx.Bucket(bucketFormat).Put([]byte("k"), []byte("fails"))) })
	fmt.Println("the process goes on:", err)
}

// Two faults at once, a commit that the disk refuses and damage to a page that was just written, end the process. The next
// one recovers, and has all that was acknowledged.
func TestAFailedCommitBesideDamageEndsTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	process := exec.CommandContext(t.Context(), os.Args[0])
	process.Env = append(os.Environ(), "BOLTDB_TEST_DAMAGE="+path)
	out, err := process.CombinedOutput()
	require.Error(t, err, "%s", out)
	require.Contains(t, string(out), "acknowledged\n")
	require.Contains(t, string(out), "panic: ")
	require.NotContains(t, string(out), "the process goes on")

	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Len(t, get(t, db, "k"), 8<<10)
	require.NoError(t, db.Update(t.Context(), put("k", "next")))
	checkReachable(t, db)
	require.NoError(t, db.Close())
}
