package boltdb

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// bbolt gathers, sorts and writes the numbers of all free pages with every commit of a file that is not small (see
// maxUnlisted), so that a consumed backlog would make every later commit slow. Free pages beyond what writes need at hand are therefore parked: a spare is a bucket in
// bucketSpare that fills a run of pages with zeros, and what a bucket owns is not in the list. Before the file grows,
// spares are deleted, and their pages are used again.
//
// To bbolt these are plain buckets: parking is as safe as any transaction. To builds that do not know them they are a
// bucket that nobody asks for, so the format's version stays.
var bucketSpare = []byte("spare")

// isSpare says whether a top-level bucket holds free space instead of data.
func isSpare(name []byte) bool { return bytes.Equal(name, bucketSpare) }

const (
	// parkBytes is how much is parked after one commit, and the most that is in one piece: room for a value of 4 MiB, the
	// largest that gRPC lets through by default, in one piece.
	parkBytes = 4<<20 + 64<<10
	// maxRefusals is how often one batch may be refused new pages before the file grows. Each time, twice as many pages
	// are given back: 15 times parkBytes, all in all.
	maxRefusals = 4
	// smallRun is what a batch may make the file larger by in any case, in pages: where free pages are scattered, there may
	// be no run for bbolt's list, and giving single pages back does not make one. Once there is one, it is used again.
	smallRun  = 64
	unlimited = -1
)

// spares is what the writer knows of parked space. Counts are of pages.
type spares struct {
	pageSize int
	// unlisted is up to which length of the file, in bytes, there is no list to keep short.
	unlisted int64
	// Above high pages in the list, some are parked; below low, or what a batch takes, some are given back.
	high, low int
	// pause is for how many commits parking rests after it failed, or took pages that were needed.
	pause int

	// held says that there are spares that can be given back.
	held bool
	// need is how many pages the last batch took: the next one may well take as many.
	need int
	// refusals counts how often the batch at hand was refused new pages.
	refusals int
	// rest is for how many commits parking still rests.
	rest   int
	warned bool
}

// newSpares sets the marks so that a commit writes some 24 KiB of list, hardly more than what else it writes.
func newSpares() spares { return spares{unlisted: maxUnlisted, high: 3 << 10, low: 1 << 9, pause: 32} }

// find looks for spares in a file that was just opened.
func (s *spares) find(bolt *bbolt.DB) error {
	s.pageSize, s.held = bolt.Info().PageSize, false
	return bolt.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketSpare); b != nil {
			key, _ := b.Cursor().First()
			s.held = key != nil
		}
		return nil
	})
}

// step is how many pages are parked, or given back, at a time.
func (s *spares) step() int { return min(parkBytes/s.pageSize, s.high/2) }

// limitGrowth makes bbolt refuse to make the file larger, by more than so many pages, in a transaction. It asks only when
// no free run is long enough.
func (db *DB) limitGrowth(tx *bbolt.Tx, pages int) {
	switch pages {
	case unlimited:
		db.bolt.MaxSize = 0
	case 0:
		db.bolt.MaxSize = 1
	default:
		// bbolt adds AllocSize to what it needs, and a page.
		db.bolt.MaxSize = int(tx.Size()) + (pages+1)*db.spare.pageSize + db.bolt.AllocSize
	}
}

// maxGrowth is by how many pages the batch at hand may make the file larger. While a copy is taken there is no limit: the
// pages of spares that are deleted meanwhile cannot be used before it ends.
func (db *DB) maxGrowth() int {
	if !db.spare.held || db.spare.refusals >= maxRefusals || db.copies.Load() > 0 {
		return unlimited
	}
	return smallRun
}

// refused says whether a transaction failed with err only because it may not make the file larger.
func refused(err error) bool { return errors.Is(err, bolterrors.ErrMaxSizeReached) }

// ended notes that a batch is through, after it took so many bytes.
func (s *spares) ended(took int64) { s.need, s.refusals = int(took)/s.pageSize, 0 }

// makeRoom gives spares back for a batch whose transaction was refused new pages after it had got some.
func (db *DB) makeRoom(got int64) {
	db.unpark(max(db.spare.step(), int(got)/db.spare.pageSize) << db.spare.refusals)
	db.spare.refusals++
	db.spare.rest = db.spare.pause
}

// tendSpares keeps the list of free pages short, but not too short. It is called after commits and has bounded work.
func (db *DB) tendSpares() {
	if db.suspect || db.copies.Load() > 0 || db.bolt.NoFreelistSync {
		return
	}
	last, before, ok := lastMetas(db.file, db.spare.pageSize)
	if !ok || last.freelist == noFreelist || before.freelist == noFreelist {
		return // one of them is damaged, or has no list yet; the next commit writes it anew
	}
	free, err := readFreelist(db.file, last)
	switch {
	case err != nil:
		db.spareFailed("look for free pages", err)
	case free.count < max(db.spare.low, db.spare.need) && db.spare.held:
		db.unpark(max(db.spare.step(), db.spare.need))
	case free.count <= db.spare.high:
	case db.spare.rest > 0:
		db.spare.rest--
	default:
		if err := db.park(free, before); err != nil {
			db.spareFailed("park free pages", err)
		}
	}
}

// spareFailed lets parking rest. Being refused is no fault: pages that look free may still be needed by who reads.
func (db *DB) spareFailed(what string, err error) {
	db.spare.rest = db.spare.pause
	level := slog.LevelDebug
	if !refused(err) && !db.spare.warned {
		db.spare.warned, level = true, slog.LevelWarn
	}
	db.log.Log(context.Background(), level, "free pages make commits slower or the file larger than need be: cannot "+what, "error", err)
}
