package boltdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("BOLTDB_TEST_HOLD"); path != "" {
		hold(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// hold keeps the file locked until its standard input ends.
func hold(path string) {
	if _, err := Open(context.Background(), path, Options{}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

var testBucket = []byte("test")

func open(t testing.TB) *DB {
	t.Helper()
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func put(key, value string) func(tx *Tx) error {
	return func(tx *Tx) error {
		b, err := tx.CreateBucketIfNotExists(testBucket)
		if err != nil {
			return Dirty(err)
		}
		return Dirty(b.Put([]byte(key), []byte(value)))
	}
}

func get(t *testing.T, db *DB, key string) (value string) {
	t.Helper()
	require.NoError(t, db.View(func(tx *Tx) error {
		if b := tx.Bucket(testBucket); b != nil {
			value = string(b.Get([]byte(key)))
		}
		return nil
	}))
	return value
}

func TestUpdateSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.NoError(t, db.UpdateDeferred(t.Context(), put("lazy", "w")))
	require.NoError(t, db.Close())

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, db, "k"))
	require.Equal(t, "w", get(t, db, "lazy"))
	require.NoError(t, db.Close())
	require.ErrorIs(t, db.Update(t.Context(), put("k", "v")), ErrClosed)
	require.ErrorIs(t, db.View(func(*Tx) error { return nil }), ErrClosed)
}

// blockWriter occupies the writer until release is called, so that what is submitted meanwhile forms one batch.
func blockWriter(t *testing.T, db *DB) (release func()) {
	t.Helper()
	started, gate := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		_ = db.Update(context.Background(), func(*Tx) error {
			close(started)
			<-gate
			return errors.New("wrote nothing")
		})
	}()
	<-started
	return func() { close(gate); wg.Wait() }
}

func waitQueued(t *testing.T, db *DB, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return len(db.queue) == n }, 5*time.Minute, time.Millisecond)
}

func TestWaitingWritersShareOneTransaction(t *testing.T) {
	db := open(t)
	release := blockWriter(t, db)

	const n = 50
	var wg sync.WaitGroup
	var ids sync.Map
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			require.NoError(t, db.Update(context.Background(), func(tx *Tx) error {
				ids.Store(tx.sequence, true)
				return put(strconv.Itoa(i), "v")(tx)
			}))
		}()
	}
	waitQueued(t, db, n)
	release()
	wg.Wait()

	count := 0
	ids.Range(func(any, any) bool { count++; return true })
	require.Equal(t, 1, count, "transactions for %d waiting writers", n)
}

func TestOneWritersFailureLeavesItsNeighboursAlone(t *testing.T) {
	spoilers := map[string]struct {
		fn   func(tx *Tx) error
		want string
	}{
		"panic after writing":  {func(tx *Tx) error { _ = put("spoilt", "x")(tx); panic("boom") }, "boom"},
		"error after writing":  {func(tx *Tx) error { _ = put("spoilt", "x")(tx); return Dirty(errors.New("late")) }, "late"},
		"error before writing": {func(*Tx) error { return errors.New("refused") }, "refused"},
	}
	for name, spoiler := range spoilers {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			release := blockWriter(t, db)
			var wg sync.WaitGroup
			var commits atomic.Int32
			submit := func(fn func(tx *Tx) error, check func(error)) {
				wg.Add(1)
				before := len(db.queue)
				go func() { defer wg.Done(); check(db.Update(context.Background(), fn)) }()
				waitQueued(t, db, before+1)
			}
			neighbour := func(key string) func(tx *Tx) error {
				return func(tx *Tx) error {
					tx.OnCommit(func() { commits.Add(1) })
					return put(key, "v")(tx)
				}
			}
			submit(neighbour("before"), func(err error) { require.NoError(t, err) })
			submit(spoiler.fn, func(err error) { require.ErrorContains(t, err, spoiler.want) })
			submit(neighbour("after"), func(err error) { require.NoError(t, err) })
			release()
			wg.Wait()

			require.Equal(t, "v", get(t, db, "before"))
			require.Equal(t, "v", get(t, db, "after"))
			require.Empty(t, get(t, db, "spoilt"))
			require.EqualValues(t, 2, commits.Load(), "commit hooks of a rolled back run must not fire")
		})
	}
}

func TestACallerMayLeaveBeforeItsTurn(t *testing.T) {
	db := open(t)
	release := blockWriter(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- db.Update(ctx, put("left", "v")) }()
	waitQueued(t, db, 1)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	release()
	require.NoError(t, db.Update(t.Context(), put("next", "v")))
	require.Empty(t, get(t, db, "left"))
}

func TestCloseSeesTakenWritesThrough(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	release := blockWriter(t, db)
	result := make(chan error)
	go func() { result <- db.Update(context.Background(), put("k", "v")) }()
	waitQueued(t, db, 1)
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	<-db.stop
	release()
	require.NoError(t, <-result)
	require.NoError(t, <-closed)

	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, db, "k"))
	require.NoError(t, db.Close())
}

func TestOpenRefuses(t *testing.T) {
	foreign := func(path string) {
		b, err := bbolt.Open(path, 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, b.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(testBucket); return err }))
		require.NoError(t, b.Close())
	}
	newer := func(path string) {
		db, err := Open(context.Background(), path, Options{})
		require.NoError(t, err)
		require.NoError(t, db.Update(context.Background(), func(tx *Tx) error {
			return tx.Bucket(bucketFormat).Put(keyVersion, binary.BigEndian.AppendUint64(nil, 99))
		}))
		require.NoError(t, db.Close())
	}
	text := func(path string) {
		require.NoError(t, os.WriteFile(path, make([]byte, 20000), 0o600))
	}
	for name, c := range map[string]struct {
		make func(path string)
		want string
	}{
		"another program's file": {foreign, `bbolt file of another program (bucket "test")`},
		"a newer format":         {newer, "it has format 99, this build reads up to format 4"},
		"not a bbolt file":       {text, "it is no bbolt file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "test.db")
			c.make(path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			_, err = Open(t.Context(), path, Options{})
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, path)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, after, "a refused file is left as it was")
		})
	}
}

func TestALockedFileNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), "BOLTDB_TEST_HOLD="+path)
	stdin, err := holder.StdinPipe()
	require.NoError(t, err)
	stdout, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	said := make([]byte, 16)
	n, _ := stdout.Read(said)
	require.Equal(t, "held\n", string(said[:n]))

	_, err = Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("process %d (", holder.Process.Pid))

	require.NoError(t, stdin.Close())
	require.NoError(t, holder.Wait())
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

func TestBackupIsAConsistentFile(t *testing.T) {
	db := open(t)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	path := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, db.Backup(t.Context(), path))
	require.ErrorContains(t, db.Backup(t.Context(), path), "exists; name a new file")

	copied, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.Equal(t, "v", get(t, copied, "k"))
	require.NoError(t, copied.Close())
}

// What a checkpoint has brought into the file only in part, and what was written since, is in the copy.
func TestABackupBesideACheckpoint(t *testing.T) {
	db := openBefore(t, Options{checkpointStep: 1})
	begun, goOn := make(chan struct{}), make(chan struct{})
	var commits int
	onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
		if isMeta(off) {
			commits++
		} else if commits == 1 {
			commits++
			close(begun)
			<-goOn
		}
		return write(b, off)
	})
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error { return errors.Join(put("a", "in the file")(tx), put("b", "in no file")(tx)) }))
	require.NoError(t, db.do(t.Context(), db.beginCheckpoint))
	<-begun
	require.NoError(t, db.Update(t.Context(), put("k", "since")))
	path := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, db.Backup(t.Context(), path))
	require.NoError(t, db.Update(t.Context(), put("k", "later")))
	close(goOn)

	copied, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	for key, want := range map[string]string{"a": "in the file", "b": "in no file", "k": "since"} {
		require.Equal(t, want, get(t, copied, key))
	}
	checkReachable(t, copied)
	require.NoError(t, copied.Close())
}

// ended is a context that has ended by the time that somebody looks.
type ended struct{ context.Context }

func (ended) Err() error { return context.Canceled }

func TestABackupEndsWithItsContext(t *testing.T) {
	db := open(t)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	dir := t.TempDir()
	require.ErrorIs(t, db.Backup(ended{context.Background()}, filepath.Join(dir, "copy.db")), context.Canceled)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// What a version of a key is called must not be true of another one after a backup was put back.
func TestABackupHasAnIncarnationOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	original := db.Incarnation()
	require.Len(t, original, 16)
	copied := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, db.Backup(t.Context(), copied))
	require.NoError(t, db.Close())
	incarnation := func(path string) string {
		db, err := Open(t.Context(), path, Options{})
		require.NoError(t, err)
		require.NoError(t, db.Close())
		return db.Incarnation()
	}
	require.Equal(t, original, incarnation(path), "opening a file does not change it")
	require.NotEqual(t, original, incarnation(copied))
	require.NotEqual(t, original, incarnation(filepath.Join(t.TempDir(), "new.db")))
	_, _, err = Compact(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, original, incarnation(path))
}

func BenchmarkUpdateParallel(b *testing.B) {
	db, err := Open(b.Context(), filepath.Join(b.TempDir(), "bench.db"), Options{})
	require.NoError(b, err)
	defer db.Close()
	var n atomic.Int64
	value := string(make([]byte, 512))
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprintf("%016d", n.Add(1))
			if err := db.Update(context.Background(), put(key, value)); err != nil {
				b.Error(err)
			}
		}
	})
}

// What is to be written once behind all who share a transaction is written with them, and its failure is theirs.
func TestBeforeCommitBelongsToAllOfTheTransaction(t *testing.T) {
	db := open(t)
	failing := errors.New("cannot be written")
	update := func(key string, last func(tx *Tx) error) error {
		return db.Update(t.Context(), func(tx *Tx) error {
			tx.BeforeCommit(func() error { return last(tx) })
			return put(key, "v")(tx)
		})
	}
	require.NoError(t, update("a", func(tx *Tx) error { return put("last", string(tx.Bucket(testBucket).Get([]byte("a"))))(tx) }))
	require.ErrorIs(t, update("b", func(*Tx) error { return failing }), failing)
	require.ErrorIs(t, update("c", func(*Tx) error { panic("in the end") }), ErrDamaged)
	require.NoError(t, db.View(func(tx *Tx) error {
		for key, want := range map[string]string{"a": "v", "last": "v", "b": "", "c": ""} {
			require.Equal(t, want, string(tx.Bucket(testBucket).Get([]byte(key))), key)
		}
		return nil
	}))
}
