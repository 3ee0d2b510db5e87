package boltdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fill makes a database file of keys values at rest, of which the first gone were deleted again.
func fill(t *testing.T, keys, gone int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dapr.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("values"))
		require.NoError(t, err)
		require.NoError(t, b.SetSequence(42))
		for i := range keys {
			require.NoError(t, b.Put(fmt.Appendf(nil, "key-%06d", i), make([]byte, 500)))
		}
		return nil
	}))
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		for i := range gone {
			require.NoError(t, tx.Bucket([]byte("values")).Delete(fmt.Appendf(nil, "key-%06d", i)))
		}
		return nil
	}))
	require.NoError(t, db.Close())
	return path
}

func check(t *testing.T, path string) (problems []error) {
	t.Helper()
	require.NoError(t, Check(t.Context(), path, func(problem error) { problems = append(problems, problem) }, nil))
	return problems
}

func TestCheck(t *testing.T) {
	cases := map[string]struct {
		damage func(t *testing.T, path string)
		want   string
	}{
		"sound":     {func(*testing.T, string) {}, ""},
		"empty":     {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) }, "the file is empty"},
		"cut short": {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 64<<10)) }, "cut short: it has 65536 bytes"},
		"not a file of bbolt": {func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, make([]byte, 20000), 0o600))
		}, ErrFormat.Error()},
		"pages overwritten": {func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			info, err := f.Stat()
			require.NoError(t, err)
			page := int64(os.Getpagesize())
			for at := 4 * page; at < info.Size()/2; at += page {
				_, err := f.WriteAt(make([]byte, 100), at)
				require.NoError(t, err)
			}
			require.NoError(t, f.Close())
		}, "age "},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := fill(t, 1000, 0)
			c.damage(t, path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			problems := check(t, path)
			if c.want == "" {
				require.Empty(t, problems)
			} else {
				require.NotEmpty(t, problems)
				require.ErrorContains(t, problems[0], c.want)
			}
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

func TestACancelledCheckEnds(t *testing.T) {
	path := fill(t, 1000, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Check(ctx, path, func(problem error) { t.Error(problem) }, nil)
	require.ErrorIs(t, err, context.Canceled)
}

func TestCheckReadsAFileThatCannotBeWritten(t *testing.T) {
	path := fill(t, 10, 0)
	require.NoError(t, os.Chmod(path, 0o400))
	require.Empty(t, check(t, path))
}

func TestAtRestMeansAtRest(t *testing.T) {
	path := fill(t, 10, 0)
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer db.Close()
	holder := fmt.Sprintf("process %d", os.Getpid())

	ignore := func(error) {}
	err = Check(t.Context(), path, ignore, nil)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, holder)
	_, _, err = Compact(t.Context(), path)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, holder)

	err = Check(t.Context(), filepath.Dir(path), ignore, nil)
	require.ErrorContains(t, err, "is not a file")
	_, _, err = Compact(t.Context(), filepath.Dir(path))
	require.ErrorContains(t, err, "is not a file")
	missing := filepath.Join(t.TempDir(), "none.db")
	err = Check(t.Context(), missing, ignore, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, _, err = Compact(t.Context(), missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoFileExists(t, missing)
}

func TestCompact(t *testing.T) {
	const keys, gone = 4000, 3600
	path := fill(t, keys, gone)
	require.NoError(t, os.Chmod(path, 0o640))
	link := filepath.Join(t.TempDir(), "link.db")
	require.NoError(t, os.Symlink(path, link))

	before, after, err := Compact(t.Context(), link)
	require.NoError(t, err)
	require.Less(t, after, before/4)

	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSymlink, info.Mode().Type())
	info, err = os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, after, info.Size())
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left beside the file")

	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.View(func(tx *Tx) error {
		b := tx.Bucket([]byte("values"))
		require.Equal(t, keys-gone, keysIn(b))
		require.EqualValues(t, 42, b.Sequence())
		require.Equal(t, make([]byte, 500), b.Get(fmt.Appendf(nil, "key-%06d", keys-1)))
		return nil
	}))
}

// A branch that leads to one leaf twice hides another one: a copy would be sound, and would lack what that holds.
func TestCompactRefusesADamagedFile(t *testing.T) {
	path := fill(t, 4000, 3600)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	m, _, whole := readMeta(bytes.NewReader(raw), int64(newestMeta(t, raw)))
	require.True(t, whole)
	branch := -1
	for at := int(2 * m.pageSize); at < int(m.highWater*m.pageSize); at += int(m.pageSize) {
		if binary.NativeEndian.Uint16(raw[at+pageKind:]) == kindBranch {
			branch = at
		}
	}
	require.Positive(t, branch)
	child := branch + pageHeader + 8
	copy(raw[child+elementSize:], raw[child:child+8])
	// Of a file of this length, not every page is read when it is opened.
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	require.NoError(t, os.Truncate(path, maxVerified+1))

	_, _, err = Compact(t.Context(), path)
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "damaged: page ")
	require.NotEmpty(t, check(t, path), "the file is as it was")
	require.NoFileExists(t, nextPath(path))
}

func keysIn(b *Bucket) (n int) {
	_ = b.ForEach(func(_, _ []byte) error { n++; return nil })
	return n
}

// Everything is copied, also what is nested and what is empty.
func TestCompactKeepsEverything(t *testing.T) {
	const keys, gone = 60000, 59000
	path := fill(t, keys, gone)
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	const large, largeSize = 20, 1 << 20
	require.Greater(t, large*largeSize, copyStep, "more than fits one transaction")
	for i := range 10 + large {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			outer, err := tx.CreateBucketIfNotExists([]byte("outer"))
			require.NoError(t, err)
			inner, err := outer.CreateBucketIfNotExists([]byte("inner"))
			require.NoError(t, err)
			require.NoError(t, inner.SetSequence(7))
			require.NoError(t, inner.Put([]byte("empty"), nil))
			if i >= 10 {
				require.NoError(t, outer.Put(fmt.Appendf(nil, "large-%d", i), make([]byte, largeSize)))
			}
			return outer.Put([]byte("z"), []byte("last"))
		}))
	}
	require.NoError(t, db.Close())

	before, after, err := Compact(t.Context(), path)
	require.NoError(t, err)
	require.Greater(t, before, int64(keys*500))
	require.Less(t, after, before)
	require.Empty(t, check(t, path))
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.View(func(tx *Tx) error {
		require.Equal(t, keys-gone, keysIn(tx.Bucket([]byte("values"))))
		outer := tx.Bucket([]byte("outer"))
		inner := outer.Bucket([]byte("inner"))
		require.EqualValues(t, 7, inner.Sequence())
		require.NotNil(t, inner.Get([]byte("empty")))
		require.Equal(t, large+2, keysIn(outer))
		require.Len(t, outer.Get([]byte("large-29")), largeSize)
		require.Equal(t, "last", string(outer.Get([]byte("z"))))
		return nil
	}))
}

func TestCompactKeepsOwnerAndMode(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := fill(t, 4000, 3600)
	require.NoError(t, os.Chown(path, 12345, 23456))
	require.NoError(t, os.Chmod(path, 0o640))
	_, _, err := Compact(t.Context(), path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	require.EqualValues(t, 12345, stat.Uid)
	require.EqualValues(t, 23456, stat.Gid)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
}

func TestWhatAKilledCompactLeavesIsRemoved(t *testing.T) {
	path := fill(t, 4000, 3600)
	leave := func() string {
		left := nextPath(path)
		require.NoError(t, os.WriteFile(left, make([]byte, 100), 0o600))
		return left
	}
	left := leave()
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.NoFileExists(t, left)
	left = leave()
	_, _, err = Compact(t.Context(), path)
	require.NoError(t, err)
	require.NoFileExists(t, left)
}

func TestCompactNeverMakesAFileLarger(t *testing.T) {
	path := fill(t, 10, 0)
	_, small, err := Compact(t.Context(), path)
	require.NoError(t, err)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	before, after, err := Compact(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, small, before)
	require.Equal(t, before, after)
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, raw, again)
}

// One bit of the list of free pages, and later writes would go to pages that are in use.
func TestAListOfFreePagesThatIsWrongIsFound(t *testing.T) {
	path := fill(t, 4000, 3600)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	m, _, whole := readMeta(bytes.NewReader(raw), int64(newestMeta(t, raw)))
	require.True(t, whole)
	first := int(m.freelist*m.pageSize) + pageHeader
	for bit := range 6 {
		damaged := bytes.Clone(raw)
		damaged[first] ^= 1 << bit
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		require.NotEmpty(t, check(t, path), "check, bit %d", bit)
		_, err := Open(t.Context(), path, Options{})
		require.ErrorIs(t, err, ErrFormat, "open, bit %d", bit)
	}
}

func TestRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "then")))
	backup := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, db.Backup(t.Context(), backup))
	require.NoError(t, db.Update(t.Context(), put("k", "now")))
	_, err = Restore(t.Context(), backup, path, nil)
	require.ErrorIs(t, err, ErrLocked)
	abandon(db)

	kept, err := Restore(t.Context(), backup, path, nil)
	require.NoError(t, err)
	value := func(path string) (string, string) {
		db, err := Open(t.Context(), path, Options{})
		require.NoError(t, err)
		defer db.Close()
		return get(t, db, "k"), db.Incarnation()
	}
	was, first := value(path)
	require.Equal(t, "then", was)
	was, _ = value(kept)
	require.Equal(t, "now", was, "what was there is kept, with its log")
	_, err = Restore(t.Context(), backup, path, nil)
	require.NoError(t, err)
	_, second := value(path)
	require.NotEqual(t, first, second, "what was counted after the first time is not counted again")

	missing := filepath.Join(t.TempDir(), "none.db")
	kept, err = Restore(t.Context(), backup, missing, nil)
	require.NoError(t, err)
	require.Empty(t, kept)
	was, _ = value(missing)
	require.Equal(t, "then", was)

	raw, err := os.ReadFile(backup)
	require.NoError(t, err)
	root := int(binary.NativeEndian.Uint64(raw[newestMeta(t, raw)+pageHeader+metaRoot:])) * os.Getpagesize()
	raw[root+pageKind] ^= 0xff
	require.NoError(t, os.WriteFile(backup, raw, 0o600))
	_, err = Restore(t.Context(), backup, path, nil)
	require.ErrorIs(t, err, ErrUnsound)
	was, _ = value(path)
	require.Equal(t, "then", was)
}

// With the disk, the file is gone: root restores it for the service whose folder it is.
func TestRestoreAsRootIsForTheOwnerOfTheFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	backup := fill(t, 10, 0)
	dir := t.TempDir()
	require.NoError(t, os.Chown(dir, 12345, 23456))
	path := filepath.Join(dir, "dapr.db")
	_, err := Restore(t.Context(), backup, path, nil)
	require.NoError(t, err)
	stat := info(t, path).Sys().(*syscall.Stat_t)
	require.EqualValues(t, 12345, stat.Uid)
	require.EqualValues(t, 23456, stat.Gid)
	require.Equal(t, os.FileMode(0o600), info(t, path).Mode().Perm())
}

// Somebody removed a database, and forgot its log.
func TestRestoreBesideALogAlone(t *testing.T) {
	path := killed(t, Options{})
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	backup := filepath.Join(t.TempDir(), "backup.db")
	require.NoError(t, db.Backup(t.Context(), backup))
	require.NoError(t, db.Update(t.Context(), put("k", "w")))
	abandon(db)
	require.NoError(t, os.Remove(path))
	kept, err := Restore(t.Context(), backup, path, nil)
	require.NoError(t, err)
	require.FileExists(t, kept+logSuffix)
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, db, "k"))
	require.NoError(t, db.Close())
}

func TestACancelledCopyIsDropped(t *testing.T) {
	path := fill(t, 1000, 0)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = makeNext(path, info(t, path), func(f *os.File) error { return copyInto(ctx, f.Name(), db) })
	require.ErrorIs(t, err, context.Canceled)
	require.NoFileExists(t, nextPath(path))
	require.NoError(t, db.Close())
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func info(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info
}

// Whoever waits for the lock while a file is replaced must end up with the new file, not with the one that is gone.
func TestAFileReplacedUnderTheLockIsNotTheOneThatIsOpened(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("this system does not list open files:", err)
	}
	path := fill(t, 10, 0)
	replacement := fill(t, 10, 0)
	holder, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)

	var waiter sync.WaitGroup
	var opened *DB
	var openErr error
	waiter.Go(func() { opened, openErr = Open(t.Context(), path, Options{}) })
	require.Eventually(t, func() bool { return openFileCount(path) == 2 }, 5*time.Minute, 10*time.Millisecond, "it waits for the lock")
	require.NoError(t, os.Rename(replacement, path))
	require.NoError(t, holder.Close())
	waiter.Wait()
	require.NoError(t, openErr)
	defer opened.Close()

	_, err = Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrLocked, "the lock is on the file that is there")
}

// openFileCount counts this process's open handles of the file at path.
func openFileCount(path string) int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	n := 0
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && target == path {
			n++
		}
	}
	return n
}

// So on FAT and exFAT, and some network shares.
func TestBackupWhereThereAreNoLinks(t *testing.T) {
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{link: func(string, string) error { return syscall.EPERM }})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	copied := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, db.Backup(t.Context(), copied))
	require.Empty(t, check(t, copied))
	entries, err := os.ReadDir(filepath.Dir(copied))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left beside the copy")

	require.NoError(t, os.WriteFile(copied, []byte("another"), 0o600))
	require.Error(t, db.Backup(t.Context(), copied))
	raw, err := os.ReadFile(copied)
	require.NoError(t, err)
	require.Equal(t, "another", string(raw))
	entries, err = os.ReadDir(filepath.Dir(copied))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
