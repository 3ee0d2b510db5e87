package boltdb

import (
	"bytes"
	"encoding/binary"
	"errors"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// maxSpares bounds the spares that are made at a time: each is a write of its own, somewhere in the file.
	maxSpares = 256
	// minSplit is the length in pages from which on runs may be split.
	minSplit = 32
	// spareOverhead is what a page's header, the header of its one element, and that element's key take.
	spareOverhead = pageHeader + elementSize + 1
)

// zeros fills spares. It is never written to, and so takes no memory.
var zeros [parkBytes]byte

// park moves some of the free pages into spares. What the last transaction freed is left alone: whoever reads still
// needs it, and bbolt would not let us have it.
func (db *DB) park(free freelist, before meta) error {
	older, err := readFreelist(db.file, before)
	if err != nil {
		return err
	}
	runs, err := commonRuns(db.file, free, older)
	if err != nil {
		return err
	}
	pages, n := chooseSpares(runs, db.spare.step())
	if n == 0 {
		return nil
	}
	err = db.updateSpares(0, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketSpare)
		if err != nil {
			return err
		}
		b.FillPercent = 1
		for range n {
			id, err := b.NextSequence()
			if err != nil {
				return err
			}
			// A bucket each: values side by side in one bucket share their pages, and are moved when their neighbours go.
			spare, err := b.CreateBucket(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(pages)), id))
			if err != nil {
				return err
			}
			if err := spare.Put([]byte{0}, zeros[:pages*db.spare.pageSize-spareOverhead]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		db.spare.held = true
	}
	return err
}

// chooseSpares returns of how many pages to make n spares, which together have at most step pages. All are of one size:
// then it does not matter in which order bbolt places them. A quarter of the runs of that size stays, so that the list
// keeps some of all sizes.
func chooseSpares(runs []int, step int) (pages, n int) {
	for size := step; size >= minSplit; size /= 2 {
		have := 0
		for _, run := range runs {
			have += run / size
		}
		if count := min(step/size, have*3/4); count*size >= step*3/4 {
			return size, count
		}
	}
	// Where there are few long runs, none may be split: bbolt needs them, for its list for example. It takes a run of just
	// the right length where there is one.
	var have [minSplit]int
	for _, run := range runs {
		if run < minSplit {
			have[run]++
		}
	}
	for size := 1; size < minSplit; size++ {
		if count := min(step/size, have[size]*3/4, maxSpares); count*size > n*pages {
			pages, n = size, count
		}
	}
	if n*pages < step/16 {
		return 0, 0 // not worth a transaction
	}
	return pages, n
}

// unpark deletes spares of as many pages, the largest first, so that their pages can be used from the next transaction
// on. If that fails, the file grows instead.
func (db *DB) unpark(pages int) {
	held := false
	err := db.updateSpares(unlimited, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketSpare)
		if b == nil {
			return nil
		}
		// bbolt's cursors do not bear with what is deleted under them.
		var keys [][]byte
		c := b.Cursor()
		key, _ := c.Last()
		for ; key != nil && pages > 0; key, _ = c.Prev() {
			keys = append(keys, bytes.Clone(key))
			pages -= int(binary.BigEndian.Uint32(key))
		}
		held = key != nil
		for _, key := range keys {
			if err := b.DeleteBucket(key); err != nil {
				return err
			}
		}
		return nil
	})
	db.spare.held = held && err == nil
	if err != nil {
		db.spareFailed("give parked pages back", err)
	}
}

// updateSpares runs fn in a transaction of its own, so that its failure is nobody else's.
func (db *DB) updateSpares(maxGrowth int, fn func(tx *bbolt.Tx) error) error {
	tx, err := db.bolt.Begin(true)
	if err != nil {
		db.suspect = errors.Is(err, bolterrors.ErrInvalidMapping)
		return err
	}
	if err := db.call(func(tx *Tx) error { return fn(tx.tx) }, &Tx{tx: tx}); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	id := uint64(tx.ID())
	db.listFree(tx)
	db.limitGrowth(tx, maxGrowth)
	err = commit(tx)
	if err != nil && !refused(err) {
		db.distrust(id, err)
	}
	return err
}
