package boltdb

import (
	"errors"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// maxResident is how much of the mapped file may stay in the process's memory after it was read. The system keeps
	// what it has room for in its own cache either way; this bounds what counts as ours, and what a container's limit
	// is measured by.
	maxResident = 64 << 20
	// residentInterval is how often that is looked at.
	residentInterval = time.Second
)

// boundResident gives mapped pages back to the system when there are many of them. Reading one again costs a page fault,
// not a disk access.
func (db *DB) boundResident() {
	defer close(db.bounded)
	ticker := time.NewTicker(residentInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if residentFileBytes() <= maxResident {
				continue
			}
			if err := db.releaseResident(); err != nil {
				db.log.Warn("mapped pages could not be given back", "error", err)
			}
		case <-db.stop:
			return
		}
	}
}

// releaseResident gives back all mapped pages. The transaction keeps the mapping where it is.
func (db *DB) releaseResident() error {
	err := db.View(func(tx *bbolt.Tx) error { return releasePages(db.bolt.Info().Data, tx.Size()) })
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}
