package boltdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

const (
	// areaSize is how long an area of the log is, and checkpointBytes after how many bytes of records the next one begins, as
	// soon as the last checkpoint is on disk.
	areaSize        = 40 << 20
	checkpointBytes = 32 << 20
	// checkpointCommits bounds the commits between checkpoints: as long as a checkpoint is pinned, bbolt walks what every
	// commit since has freed.
	checkpointCommits = 2000
	// checkpointGrowth bounds how much the file grows between checkpoints, beside an eighth of its size: bbolt uses pages
	// that came from growing only again once the checkpoint after them is pinned.
	checkpointGrowth = 8 << 20
	// checkpointEvery is how long after the last one a checkpoint is made if there is something behind that in the log, in
	// up to twice the time while nothing is written. A page that is written again and again is written to the disk once for each.
	checkpointEvery = 30 * time.Second
)

// checkpoint is what the writer knows of them.
type checkpoint struct {
	// pin is a read transaction at the last checkpoint: nothing overwrites its pages. old is the pin of the one before it.
	pin, old *bbolt.Tx
	// done hears of the sync of the checkpoint that is on its way to the disk, whose header comes next; nil: there is none.
	done   chan error
	header *header
	began  time.Time

	commits int
	bytes   int64
	size    int64 // of the file
	// resting: the last one could not be begun. It is tried again when it must be, or after a while.
	resting bool
}

// startLog begins a log beside a file that was closed cleanly. From then on the file cannot do without its log, and says
// so.
func (db *DB) startLog() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("begin the log %s: %w", db.path+logSuffix, err)
			db.uncertain = db.uncertain || db.wal != nil
		}
	}()
	f, err := db.openFile(db.path+logSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	db.wal, db.cp = db.newLog(f), checkpoint{}
	if err := errors.Join(db.disk.Sync(), f.Sync(), durable.SyncDir(filepath.Dir(db.path))); err != nil {
		return err
	}
	h, err := db.pinCheckpoint(1)
	if err != nil {
		return err
	}
	if err := db.wal.writeHeader(h); err != nil {
		return err
	}
	if err := db.commitOwn(func(tx *bbolt.Tx) error { return tx.Bucket(bucketFormat).Put(keyLog, db.incarnation) }); err != nil {
		return err
	}
	return db.checkpointNow()
}

func (db *DB) newLog(f file) *wal {
	return &wal{file: f, areaSize: db.opts.areaSize, slot: 1, stats: &db.counters, area: 1}
}

// endLog makes the file whole without its log, and removes that.
func (db *DB) endLog() error {
	if db.wal == nil {
		return nil
	}
	if err := db.finishCheckpoint(); err != nil {
		return err
	}
	// Until the log is gone, its last checkpoint counts, whose pages the pin keeps.
	if err := db.commitOwn(func(tx *bbolt.Tx) error { return tx.Bucket(bucketFormat).Delete(keyLog) }); err != nil {
		return err
	}
	if err := db.disk.Sync(); err != nil {
		db.uncertain = true // rule 7
		return err
	}
	err := errors.Join(db.wal.file.Close(), removeLog(db.path))
	db.wal = nil
	db.unpin()
	return err
}

// removeLog removes the log of the file at path, if there is one.
func removeLog(path string) error {
	err := os.Remove(path + logSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

// due reports whether it is time for a checkpoint.
func (db *DB) due() bool {
	cp := &db.cp
	return db.wal != nil && cp.done == nil && !cp.resting &&
		(cp.bytes >= db.opts.checkpointBytes || cp.commits >= db.opts.checkpointCommits ||
			db.fileSize > cp.size+max(checkpointGrowth, cp.size/8) || cp.commits > 0 && time.Since(cp.began) >= db.opts.checkpointEvery)
}

// beginCheckpoint makes the present state a checkpoint, and its own epoch of the log begin. The file is synced in the
// background: until the header is written after that, the checkpoint before counts.
func (db *DB) beginCheckpoint() error {
	if err := db.finishCheckpoint(); err != nil {
		return err
	}
	db.cp.began, db.cp.resting = time.Now(), true
	if err := db.commitOwn(func(*bbolt.Tx) error { return nil }); err != nil {
		return err
	}
	h, err := db.pinCheckpoint(db.wal.epoch + 1)
	if err != nil {
		db.uncertain = true
		return err
	}
	done := make(chan error, 1)
	db.cp.done, db.cp.header, db.cp.resting = done, h, false
	go func(f file) { done <- f.Sync() }(db.disk)
	return nil
}

// pinCheckpoint pins the state that was committed last, before anything else is committed (rule 1): what is committed
// next would overwrite pages of it. TestPowerFailure fails with a pin that is late by two commits; by one, it would do no
// harm, since bbolt keeps for a reader also what the transaction that it sees has freed. The old pin stays (rule 2): as
// long as the header is not on disk, the old checkpoint counts. Without it, TestPowerFailure fails. It returns the new
// header.
func (db *DB) pinCheckpoint(epoch uint64) (*header, error) {
	pin, err := db.bolt.Begin(false)
	if err != nil {
		return nil, err
	}
	db.cp.old, db.cp.pin = db.cp.pin, pin
	db.cp.commits, db.cp.bytes, db.cp.size = 0, 0, pin.Size()
	h, err := db.headerOf(pin)
	if err != nil {
		return nil, err
	}
	db.wal.begin(epoch)
	h.epoch, h.sequence, h.at, h.size = epoch, db.wal.sequence+1, db.wal.at, db.wal.areaSize
	return h, nil
}

// headerOf says where in the file the state is that tx sees, which is the last one.
func (db *DB) headerOf(tx *bbolt.Tx) (*header, error) {
	h := &header{pageSize: uint32(db.bolt.Info().PageSize)}
	copy(h.incarnation[:], db.incarnation)
	pageSize := int64(h.pageSize)
	if _, err := db.disk.ReadAt(h.meta[:], int64(tx.ID()%2)*pageSize); err != nil {
		return nil, err
	}
	root := make([]byte, pageSize)
	if _, err := db.disk.ReadAt(root, int64(binary.NativeEndian.Uint64(h.meta[pageHeader+metaRoot:]))*pageSize); err != nil {
		return nil, err
	}
	h.rootSum = crc32.Checksum(root, castagnoli)
	return h, nil
}

// dropCheckpoint waits for the sync of the checkpoint that is under way, if there is one, which then comes to nothing.
func (db *DB) dropCheckpoint() {
	if db.cp.done != nil {
		<-db.cp.done
		db.cp.done = nil
	}
}

// finishCheckpoint waits for the checkpoint that is under way, if there is one.
func (db *DB) finishCheckpoint() error {
	if db.cp.done == nil {
		return nil
	}
	return db.checkpointDone(<-db.cp.done)
}

// checkpointDone ends a checkpoint whose pages were synced: the header may only say what is on disk. The writer alone syncs
// the log, since of two who sync it, only one may hear that something was lost (without this, TestPowerFailure fails). One
// that failed leaves the file uncertain (rule 7, TestAFailedSyncIsNotTriedAgain): what a sync could not write may be lost,
// although the system thinks otherwise.
func (db *DB) checkpointDone(err error) error {
	db.cp.done = nil
	if err == nil {
		err = db.wal.writeHeader(db.cp.header)
	}
	if err != nil {
		db.uncertain = true
		return db.failed(fmt.Errorf("checkpoint: %w", err), 0)
	}
	if db.cp.old != nil {
		err = db.cp.old.Rollback()
		db.cp.old = nil
	}
	took := time.Since(db.cp.began)
	db.counters.count(func(s *Stats) { s.Checkpoints++; s.CheckpointTime += took })
	return err
}

// checkpointNow waits until the present state is a checkpoint on disk.
func (db *DB) checkpointNow() error {
	if err := db.beginCheckpoint(); err != nil {
		return err
	}
	return db.finishCheckpoint()
}

// commitOwn commits a transaction of the database's own that needs no record: it changes nothing that users have stored.
// The list of free pages is written with it, as checkpoints need it.
func (db *DB) commitOwn(fn func(tx *bbolt.Tx) error) error {
	tx, err := db.begin()
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := db.reserve(listBytes(tx), 0); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return db.commit(tx, true)
}

// listBytes is at most what the list of free pages takes, with the pages that every commit writes.
func listBytes(tx *bbolt.Tx) int64 {
	stats := tx.DB().Stats()
	return int64(stats.FreePageN+stats.PendingPageN)*8 + 8*int64(tx.DB().Info().PageSize)
}

// unpin lets go of the pages of checkpoints.
func (db *DB) unpin() {
	for _, pin := range []*bbolt.Tx{db.cp.pin, db.cp.old} {
		if pin != nil {
			_ = pin.Rollback()
		}
	}
	db.cp = checkpoint{}
}
