package boltdb

import (
	"errors"
	"time"
)

const (
	// maxResident is how much of the mapped file may stay in the process's memory after it was read. The system keeps
	// what it has room for in its own cache either way; this bounds what counts as ours, and what a container's limit
	// is measured by.
	maxResident = 32 << 20
	// residentInterval is how often that is looked at.
	residentInterval = 250 * time.Millisecond
)

// watchResident calls BoundResident now and then.
func (db *DB) watchResident() {
	defer close(db.watched)
	ticker := time.NewTicker(residentInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			db.BoundResident()
		case <-db.stop:
			return
		}
	}
}

// BoundResident gives mapped pages back to the system when there are many of them. Reading one again costs a page fault,
// not a disk access. It happens by itself; what reads a large part of the file in one go calls it in between, outside of
// a transaction.
func (db *DB) BoundResident() {
	if residentFileBytes() <= maxResident {
		return
	}
	if err := db.releaseResident(); err != nil {
		db.log.Warn("mapped pages could not be given back", "error", err)
	}
}

// releaseResident gives back all mapped pages. The transaction keeps the mapping where it is.
func (db *DB) releaseResident() error {
	err := db.View(func(tx *Tx) error { return releasePages(db.bolt.Info().Data, tx.Size()) })
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}
