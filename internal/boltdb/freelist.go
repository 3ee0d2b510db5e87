package boltdb

import (
	"encoding/binary"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
)

// A free list is a page header and then the numbers of the free pages, ascending, in 8 bytes each. A count that does not
// fit in the header stands before the numbers, as freelistLong says. Pages that only readers still need are in the list,
// too.
const (
	freelistLong = 0xFFFF
	pageNumber   = 8
)

// maxUnlisted is up to which length, in bytes, a file's commits leave the list out: that is a page less for each to
// write, and for a small commit one of five. After a crash such a file is read once when it is opened.
const maxUnlisted = 64 << 20

// listFree chooses whether tx will write the list. Giving parked pages back in time takes one.
func (db *DB) listFree(tx *bbolt.Tx) {
	db.bolt.NoFreelistSync = tx.Size() <= db.spare.unlisted && !db.spare.held
}

// keepList writes the list that the last commit has left out, so that the next Open need not look for free pages. If it
// cannot be written, that is what happens.
func (db *DB) keepList() {
	last, _, ok := lastMetas(db.file, db.spare.pageSize)
	if db.suspect || !ok || last.freelist != noFreelist {
		return
	}
	db.spare.unlisted = 0
	if err := db.updateSpares(unlimited, func(*bbolt.Tx) error { return nil }); err != nil {
		db.log.Debug("the list of free pages cannot be written", "error", err)
	}
}

// freelist is the list of free pages that a transaction has written.
type freelist struct {
	count int
	// at is where the numbers begin in the file.
	at int64
}

// lastMetas returns the meta pages of the last two transactions, if both are whole.
func lastMetas(f io.ReaderAt, pageSize int) (last, before meta, ok bool) {
	last, _, ok = readMeta(f, 0)
	before, _, other := readMeta(f, int64(pageSize))
	if last.transaction < before.transaction {
		last, before = before, last
	}
	return last, before, ok && other
}

// readFreelist finds the list that belongs to m.
func readFreelist(f io.ReaderAt, m meta) (freelist, error) {
	var raw [pageHeader + pageNumber]byte
	at := int64(m.freelist * m.pageSize)
	if _, err := f.ReadAt(raw[:], at); err != nil {
		return freelist{}, err
	}
	at += pageHeader
	count := uint64(binary.NativeEndian.Uint16(raw[pageCount:]))
	if count == freelistLong {
		count = binary.NativeEndian.Uint64(raw[pageHeader:])
		at += pageNumber
	}
	if count > m.highWater {
		return freelist{}, fmt.Errorf("%w: %d of %d pages are free", ErrDamaged, count, m.highWater)
	}
	return freelist{int(count), at}, nil
}

// pages reads the numbers of the pages.
func (l freelist) pages(f io.ReaderAt) ([]uint64, error) {
	raw := make([]byte, l.count*pageNumber)
	if _, err := f.ReadAt(raw, l.at); err != nil {
		return nil, err
	}
	pages := make([]uint64, l.count)
	for i := range pages {
		pages[i] = binary.NativeEndian.Uint64(raw[i*pageNumber:])
	}
	return pages, nil
}

// commonRuns returns how long the runs of neighbouring pages are that are in both lists.
func commonRuns(f io.ReaderAt, a, b freelist) (runs []int, err error) {
	left, err := a.pages(f)
	if err != nil {
		return nil, err
	}
	right, err := b.pages(f)
	if err != nil {
		return nil, err
	}
	end := uint64(0) // of the last run
	for i, j := 0, 0; i < len(left) && j < len(right); {
		switch {
		case left[i] < right[j]:
			i++
		case left[i] > right[j]:
			j++
		default:
			if left[i] != end {
				runs = append(runs, 0)
			}
			runs[len(runs)-1]++
			end = left[i] + 1
			i, j = i+1, j+1
		}
	}
	return runs, nil
}
