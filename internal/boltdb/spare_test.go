package boltdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// space is what the file says of its pages.
type space struct {
	// list is what the last commit wrote, all how long the file is; unlisted: it wrote none.
	list, all      int
	held, unlisted bool
}

// look asks the writer, which is then done with what it does after a commit.
func look(t *testing.T, db *DB) (s space) {
	t.Helper()
	nothing := errors.New("wrote nothing")
	var problem error
	require.ErrorIs(t, db.Update(t.Context(), func(*Tx) error {
		last, _, _ := lastMetas(db.file, db.spare.pageSize)
		s = space{all: int(last.highWater), held: db.spare.held, unlisted: last.freelist == noFreelist}
		if !s.unlisted {
			var list freelist
			list, problem = readFreelist(db.file, last)
			s.list = list.count
		}
		return nothing
	}), nothing)
	require.NoError(t, problem)
	return s
}

// crash closes the file as it is.
func crash(t *testing.T, db *DB) {
	t.Helper()
	nothing := errors.New("wrote nothing")
	require.ErrorIs(t, db.Update(t.Context(), func(*Tx) error {
		db.suspect = true // the writer writes no more
		return nothing
	}), nothing)
	require.NoError(t, db.Close())
}

// checkAtRest closes the file: nobody may write to it while bbolt checks it.
func checkAtRest(t *testing.T, db *DB) {
	t.Helper()
	require.NoError(t, db.Close())
	bolt, err := bbolt.Open(db.Path(), 0, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer bolt.Close()
	require.NoError(t, bolt.View(func(tx *bbolt.Tx) error {
		for problem := range tx.Check() {
			t.Error(problem)
		}
		return nil
	}))
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

// listing returns a database whose every commit writes the list.
func listing(t testing.TB) *DB {
	t.Helper()
	db := open(t)
	db.spare.unlisted = 0
	return db
}

// consumed returns a database from which a backlog of as many pages is gone, and which has parked their space.
func consumed(t *testing.T, pages int) *DB {
	t.Helper()
	db := listing(t)
	for i := 0; i < 3*pages; i += 3000 {
		fillRange(t, db, i, i+3000)
	}
	full := look(t, db)
	require.Greater(t, full.all, pages)
	for i := 0; i < 3*pages; i += 1500 {
		dropRange(t, db, i, i+1500)
		require.Less(t, look(t, db).list, 2*db.spare.high, "after %d entries", i)
	}
	after := look(t, db)
	require.True(t, after.held)
	require.LessOrEqual(t, after.all, full.all+64, "parking takes no new pages")
	return db
}

// After a backlog was consumed, commits write a short list of free pages, also in a file that is opened again, and the
// space is used again before the file grows: by many small transactions, and by a large one.
func TestCommitsStaySmallAfterABacklog(t *testing.T) {
	const pages = 20000
	db := consumed(t, pages)
	full := look(t, db).all
	require.NoError(t, db.Close())
	db, err := Open(t.Context(), db.Path(), Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.LessOrEqual(t, look(t, db).list, 2*db.spare.high)

	fillRange(t, db, 0, 3*pages/2)
	for i := 3 * pages / 2; i < 3*pages; i += 300 {
		fillRange(t, db, i, i+300)
	}
	require.Less(t, look(t, db).all, full+full/50)
	checkAtRest(t, db)
}

// The list of a file that an older build has left gets shorter with every commit.
func TestAnOldFilesListGetsShort(t *testing.T) {
	const pages = 20000
	db := listing(t)
	fillRange(t, db, 0, 3*pages)
	dropRange(t, db, 0, 3*pages)
	before := look(t, db)
	require.Greater(t, before.list, pages)
	for i := range 30 {
		require.NoError(t, db.Update(t.Context(), put(fmt.Sprint(i), "v")))
	}
	after := look(t, db)
	require.LessOrEqual(t, after.list, db.spare.high+100)
	require.LessOrEqual(t, after.all, before.all)
	checkAtRest(t, db)
}

// Single pages, all over the file, are parked, too.
func TestScatteredFreePagesAreParked(t *testing.T) {
	const pages = 16000
	db := listing(t)
	for i := 0; i < 3*pages; i += 3000 {
		fillRange(t, db, i, i+3000)
	}
	full := look(t, db).all
	order := rand.New(rand.NewPCG(1, 2)).Perm(pages)
	for i := 0; i < len(order)*3/4; i += 80 {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			for _, page := range order[i : i+80] {
				for entry := range 3 {
					require.NoError(t, tx.Bucket(testBucket).Delete(number(3*page+entry)))
				}
			}
			return nil
		}))
	}
	after := look(t, db)
	require.Less(t, after.list, 2*db.spare.high)
	require.LessOrEqual(t, after.all, full+64)
	for i := range pages * 3 / 4 / 100 {
		fillRange(t, db, 3*(pages+i*100), 3*(pages+i*100+100))
	}
	require.Less(t, look(t, db).all, full+full/50)
	checkAtRest(t, db)
}

// Whoever reads what the last transaction has left holds no parking up, and what the reader sees stays as it is.
func TestParkingBesideReaders(t *testing.T) {
	const pages = 12000
	db := listing(t)
	fillRange(t, db, 0, 3*pages)
	full := look(t, db).all
	var reader *bbolt.Tx
	defer func() { _ = reader.Rollback() }() // or else the file could not be closed
	for i := 0; i < 3*pages; i += 600 {
		require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
			for entry := i; entry < i+600; entry++ {
				if err := tx.Bucket(testBucket).Delete(number(entry)); err != nil {
					return Dirty(err)
				}
			}
			// Before the writer comes to park.
			tx.OnCommit(func() { reader, _ = db.bolt.Begin(false) })
			return nil
		}))
		s := look(t, db)
		require.Less(t, s.list, 2*db.spare.high)
		require.LessOrEqual(t, s.all, full+smallRun)
		if i+600 < 3*pages {
			require.Len(t, reader.Bucket(testBucket).Get(number(i+600)), 1300)
		}
		require.NoError(t, reader.Rollback())
	}
	require.True(t, look(t, db).held)
	checkAtRest(t, db)
}

// While a copy is taken, pages that are given back cannot be used before it ends, and so none are.
func TestABackupLeavesSparesAlone(t *testing.T) {
	db := consumed(t, 9000)
	before := look(t, db)
	db.copies.Add(1)
	fillRange(t, db, 0, 15000)
	grown := look(t, db)
	require.Greater(t, grown.all, before.all)
	require.True(t, grown.held)
	db.copies.Add(-1)
	fillRange(t, db, 15000, 20000)
	require.LessOrEqual(t, look(t, db).all, grown.all+smallRun)
}

// Whatever step of parking fails: no write does, the database stays ready, and once there is room again, so is parking.
func TestParkingThatFailsIsNobodysFailure(t *testing.T) {
	// Nobody else writes this much in one piece here.
	isSpare := func(b []byte) bool { return len(b) > 200<<10 }
	for name, hook := range map[string]func(failures *int) func(b []byte, off int64) (n int, err error, late bool){
		"its pages cannot be written": func(failures *int) func([]byte, int64) (int, error, bool) {
			return func(b []byte, _ int64) (int, error, bool) {
				if !isSpare(b) {
					return 0, nil, false
				}
				*failures++
				return 0, syscall.ENOSPC, false
			}
		},
		"the page that makes it count is perhaps not on disk": func(failures *int) func([]byte, int64) (int, error, bool) {
			parking := false
			return func(b []byte, off int64) (int, error, bool) {
				if parking = parking || isSpare(b); !parking || !isMeta(off) {
					return 0, nil, false
				}
				*failures++
				return 0, syscall.EIO, true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			db, err := Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			db.spare.unlisted = 0
			fillRange(t, db, 0, 24000)
			var room atomic.Bool
			failures := 0 // the writer's
			fails := hook(&failures)
			onWrite(t, db, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
				if room.Load() {
					return write(b, off)
				}
				n, err, late := fails(b, off)
				if err != nil && !late {
					return n, err
				}
				n, written := write(b, off)
				return n, errors.Join(err, written)
			})
			for i := 0; i < 24000; i += 600 {
				dropRange(t, db, i, i+600)
				look(t, db)
				require.Nil(t, db.failure.Load())
				require.NoError(t, db.Ready(t.Context()))
			}
			room.Store(true)
			for range db.spare.pause + 20 {
				require.NoError(t, db.Update(t.Context(), put("k", "v")))
			}
			s := look(t, db)
			require.True(t, s.held)
			require.Less(t, s.list, 2*db.spare.high)
			require.Positive(t, failures)
			checkAtRest(t, db)
			require.Equal(t, 1, strings.Count(log.String(), "level=WARN msg=\"free pages make commits slower"), log.String())
		})
	}
}

func TestChooseSpares(t *testing.T) {
	for name, test := range map[string]struct {
		runs     []int
		step     int
		pages, n int
	}{
		"nothing":                         {nil, 1000, 0, 0},
		"too little":                      {[]int{200, 100}, 1000, 0, 0},
		"one long run":                    {[]int{100000}, 1000, 1000, 1},
		"half of one run stays":           {[]int{1100}, 1000, 250, 3},
		"runs of half":                    {[]int{600, 600, 600}, 1000, 500, 2},
		"no long run is split":            {append(singles(40), 3, 3, 3, 3, 500), 1000, 0, 0},
		"the size of which there is most": {append(singles(40), slices.Repeat([]int{3}, 40)...), 1000, 3, 30},
		"single pages":                    {singles(4000), 1000, 1, 256},
		"a step as long as few singles":   {singles(40), 16, 1, 16},
	} {
		t.Run(name, func(t *testing.T) {
			pages, n := chooseSpares(test.runs, test.step)
			require.Equal(t, [2]int{test.pages, test.n}, [2]int{pages, n})
		})
	}
}

// singles is as many runs of one page.
func singles(n int) []int { return slices.Repeat([]int{1}, n) }

// Whatever is written, deleted and reopened: the file holds what was put into it, its pages are sound, and it grows with
// what it holds, not with what it has held.
func TestSpareModel(t *testing.T) {
	dir := t.TempDir()
	runs, parked, crashed := 0, 0, 0 // crashed: after a commit without a list
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		unlisted := rapid.SampledFrom([]int64{0, 1 << 20, 8 << 20}).Draw(rt, "unlisted")
		reopen := func() *DB {
			db, err := Open(t.Context(), path, Options{})
			require.NoError(rt, err)
			db.spare.high, db.spare.low, db.spare.pause = 64, 16, 2
			db.spare.unlisted = unlisted
			return db
		}
		db := reopen()
		defer func() { _ = db.Close() }()
		want := map[string]int{}
		live, most := 0, 0
		size := rapid.OneOf(rapid.IntRange(1, 3000), rapid.IntRange(1, 3000), rapid.IntRange(1, 3000),
			rapid.IntRange(3000, 100<<10), rapid.IntRange(3000, 100<<10), rapid.IntRange(1, 4<<20))
		batch := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [2]int {
			return [2]int{rapid.IntRange(0, 40).Draw(rt, "key"), size.Draw(rt, "size")}
		}), 1, 3)
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				values := batch.Draw(rt, "values")
				require.NoError(rt, db.Update(t.Context(), func(tx *Tx) error {
					b, err := tx.CreateBucketIfNotExists(testBucket)
					require.NoError(rt, err)
					for _, v := range values {
						require.NoError(rt, b.Put(number(v[0]), bytes.Repeat([]byte{byte(v[0])}, v[1])))
					}
					return nil
				}))
				for _, v := range values {
					live += v[1] - want[string(number(v[0]))]
					want[string(number(v[0]))] = v[1]
				}
				most = max(most, live)
			},
			"delete": func(rt *rapid.T) {
				from := rapid.IntRange(0, 40).Draw(rt, "from")
				to := rapid.IntRange(from, 41).Draw(rt, "to")
				require.NoError(rt, db.Update(t.Context(), func(tx *Tx) error {
					b, err := tx.CreateBucketIfNotExists(testBucket)
					require.NoError(rt, err)
					for i := from; i < to; i++ {
						require.NoError(rt, b.Delete(number(i)))
					}
					return nil
				}))
				for i := from; i < to; i++ {
					live -= want[string(number(i))]
					delete(want, string(number(i)))
				}
			},
			"reopen": func(rt *rapid.T) {
				require.NoError(rt, db.Close())
				db = reopen()
			},
			"crash": func(rt *rapid.T) {
				if look(t, db).unlisted {
					crashed++
				}
				crash(t, db)
				db = reopen()
			},
			"": func(rt *rapid.T) {
				s := look(t, db)
				if s.held {
					parked++
				}
				require.LessOrEqual(rt, s.all*db.spare.pageSize, 2*most+32<<20)
				require.NoError(rt, db.View(func(tx *Tx) error {
					b := tx.Bucket(testBucket)
					if b == nil {
						return nil
					}
					seen := 0
					err := b.ForEach(func(k, v []byte) error {
						seen++
						require.Len(rt, v, want[string(k)])
						require.Equal(rt, k[len(k)-1], v[0])
						require.Equal(rt, k[len(k)-1], v[len(v)-1])
						return nil
					})
					require.Equal(rt, len(want), seen)
					return err
				}))
			},
		})
		for range look(t, db).list/16 + 10 {
			require.NoError(rt, db.Update(t.Context(), func(tx *Tx) error {
				_, err := tx.CreateBucketIfNotExists([]byte("small"))
				return err
			}))
		}
		require.LessOrEqual(rt, look(t, db).list, 4*db.spare.high)
		checkAtRest(t, db)
	})
	require.Positive(t, parked)
	require.Positive(t, crashed)
}
